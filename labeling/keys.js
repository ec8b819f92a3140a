// On the labeling screen: Enter sends the answer, Backspace goes back to the image before, PageDown leaves this one for
// later, the arrows change the image's brightness (up, down) and contrast (right, left), + and - its size, and beside the
// number of the task stands how many images are done.
(() => {
  const onScreen = () => document.querySelector(".ct");
  const writing = (e) => e && e.matches && e.matches("textarea, [contenteditable=true], input:not([type=radio])");
  const press = (...selectors) => {
    const button = selectors.map((s) => document.querySelector(s)).find((b) => b && !b.disabled);
    if (button) button.click();
  };
  let shown = "";
  let asking = false;
  let level = [1, 1];
  let lit = "";
  const change = (by) => {
    level = level.map((value, n) => Math.min(8, Math.max(0.125, value * by[n])));
    document.querySelectorAll(".ct-image canvas").forEach((canvas) => {
      canvas.style.filter = `brightness(${level[0]}) contrast(${level[1]})`;
    });
    lit = shown;
  };
  const plain = () => {
    level = [1, 1];
    lit = "";
    document.querySelectorAll(".ct-image canvas").forEach((canvas) => { canvas.style.filter = ""; });
  };
  // In the search field Enter takes the first class that is left (Label Studio's own); Enter again shall send it.
  document.addEventListener("keydown", (event) => {
    const field = event.target;
    if (event.key === "Enter" && writing(field) && field.closest(".ct-many")) setTimeout(() => field.blur(), 0);
  }, true);
  // Label Studio's own way to zoom is the wheel; it keeps the point under the pointer, here the middle, where it is.
  const zoom = (by) => {
    const stage = document.querySelector(".ct-image .konvajs-content");
    if (!stage) return;
    const box = (document.querySelector(".ct-image canvas") || stage).getBoundingClientRect();
    stage.dispatchEvent(new WheelEvent("wheel", {
      deltaY: by, ctrlKey: true, bubbles: true, cancelable: true,
      clientX: box.x + box.width / 2, clientY: box.y + box.height / 2,
    }));
  };
  document.addEventListener("keydown", (event) => {
    if (!onScreen() || writing(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "+" || event.key === "=" || event.key === "-") {
      event.preventDefault();
      event.stopImmediatePropagation();
      zoom(event.key === "-" ? 100 : -100);
      return;
    }
    if (event.shiftKey) return;
    const back = document.querySelector('button[aria-label="submit"]'); // reads "Update": an image seen before
    const wanted = {
      Enter: ['[aria-label="Submit current annotation"]', 'button[aria-label="submit"]',
        ...(back ? ['[data-testid="next-task"]'] : [])],
      Backspace: ['[data-testid="prev-task"]'],
      PageDown: ['[data-testid="next-task"]'],
    }[event.key];
    const light = { ArrowUp: [1.25, 1], ArrowDown: [0.8, 1], ArrowRight: [1, 1.25], ArrowLeft: [1, 0.8] }[event.key];
    if (!wanted && !light) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (light) change(light);
    else if (!event.repeat) press(...wanted);
  }, true);

  const progress = async () => {
    const task = document.querySelector(".lsf-current-task__task-id");
    const project = location.pathname.match(/^\/projects\/(\d+)/);
    if (!onScreen() || !task || !project) return;
    const here = document.querySelector(".ct-progress");
    const number = task.firstChild && task.firstChild.textContent;
    if (asking || (here && shown === number)) return;
    asking = true;
    if (lit && lit !== number) plain();
    shown = number;
    const answer = await fetch(`/api/projects/${project[1]}/`).catch(() => null);
    const found = answer && answer.ok ? await answer.json() : null;
    asking = false;
    const bar = document.querySelector(".lsf-current-task");
    if (!found || !bar) return;
    const words = document.querySelector(".ct-progress") || document.createElement("div");
    words.className = "ct-progress";
    words.style.cssText = "margin: 0 12px; font-size: 14px; white-space: nowrap";
    words.textContent = `${found.finished_task_number} / ${found.task_number}`;
    const keys = document.createElement("span");
    keys.className = "ct-keys"; // no room for them on a phone
    keys.textContent = " · Enter ↵ · Backspace ⌫ · ↑ ↓ ← → ◐ · + − ⌕ · PageDown ⤼";
    words.append(keys);
    if (!words.isConnected) bar.after(words);
  };
  setInterval(progress, 500);
})();
