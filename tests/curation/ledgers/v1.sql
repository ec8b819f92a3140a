BEGIN TRANSACTION;
CREATE TABLE about (
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "about" VALUES('schema','1');
INSERT INTO "about" VALUES('id','00000000000000000000000000000000');
CREATE TABLE class_events (
	id INTEGER NOT NULL, 
	kind TEXT NOT NULL, 
	class_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	at TEXT NOT NULL, 
	who TEXT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "class_events" VALUES(1,'add','c1','cat','2026-11-21T12:00:00.000000+00:00','import');
INSERT INTO "class_events" VALUES(2,'add','c2','dog','2026-11-21T12:00:00.000000+00:00','import');
CREATE TABLE iteration_events (
	id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	state TEXT NOT NULL, 
	at TEXT NOT NULL, 
	message TEXT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "iteration_events" VALUES(1,1,'preparing','2026-11-21T12:00:00.000000+00:00','');
INSERT INTO "iteration_events" VALUES(2,1,'waiting','2026-11-21T12:00:00.000000+00:00','');
INSERT INTO "iteration_events" VALUES(3,1,'done','2026-11-21T12:00:00.000000+00:00','');
CREATE TABLE label_events (
	id INTEGER NOT NULL, 
	kind TEXT NOT NULL, 
	sample_id TEXT NOT NULL, 
	task TEXT NOT NULL, 
	region TEXT, 
	old TEXT, 
	new TEXT, 
	excluded BOOLEAN NOT NULL, 
	who TEXT NOT NULL, 
	at TEXT NOT NULL, 
	why TEXT NOT NULL, 
	iteration INTEGER NOT NULL, 
	cites TEXT NOT NULL, 
	undoes INTEGER, 
	PRIMARY KEY (id), 
	FOREIGN KEY(sample_id) REFERENCES samples (id)
);
INSERT INTO "label_events" VALUES(1,'import','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','class',NULL,NULL,'c1',0,'import','2026-11-21T12:00:00.000000+00:00','label as given',0,'[]',NULL);
INSERT INTO "label_events" VALUES(2,'import','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','class',NULL,NULL,'c2',0,'import','2026-11-21T12:00:00.000000+00:00','label as given',0,'[]',NULL);
INSERT INTO "label_events" VALUES(3,'decision','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','class',NULL,'c1','c2',0,'consensus','2026-11-21T12:00:00.000000+00:00','people agree',1,'[1, 2]',NULL);
INSERT INTO "label_events" VALUES(4,'undo','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','class',NULL,'c2','c1',0,'eve','2026-11-21T12:00:00.000000+00:00','undone',1,'[]',3);
CREATE TABLE paths (
	number INTEGER NOT NULL, 
	sample_id TEXT NOT NULL, 
	path TEXT NOT NULL, 
	root TEXT NOT NULL, 
	given TEXT, 
	metadata TEXT NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (root, path, sample_id), 
	FOREIGN KEY(sample_id) REFERENCES samples (id)
);
INSERT INTO "paths" VALUES(1,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','a.png','/images','c1','{"light": 0.5}');
INSERT INTO "paths" VALUES(2,'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','b.png','/images','c2','{}');
CREATE TABLE queue (
	"key" TEXT NOT NULL, 
	sample_id TEXT NOT NULL, 
	iteration INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	entry TEXT NOT NULL, 
	PRIMARY KEY ("key"), 
	FOREIGN KEY(sample_id) REFERENCES samples (id)
);
INSERT INTO "queue" VALUES('k1','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',1,0,'{"key": "k1", "sample_id": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "iteration": 1, "position": 0, "mode": "shown", "given": "c1", "suggested": "c2", "reason": "looks like a dog", "related": [], "opinions": 1}');
CREATE TABLE samples (
	number INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	split TEXT NOT NULL, 
	group_key TEXT, 
	width INTEGER NOT NULL, 
	height INTEGER NOT NULL, 
	at TEXT NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (id)
);
INSERT INTO "samples" VALUES(1,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','train',NULL,4,4,'2026-11-21T12:00:00.000000+00:00');
INSERT INTO "samples" VALUES(2,'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','holdout','g',4,4,'2026-11-21T12:00:00.000000+00:00');
CREATE TABLE verdicts (
	id INTEGER NOT NULL, 
	sample_id TEXT NOT NULL, 
	answer TEXT NOT NULL, 
	person TEXT NOT NULL, 
	at TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	source TEXT NOT NULL, 
	mode TEXT NOT NULL, 
	iteration INTEGER NOT NULL, 
	seconds FLOAT, 
	note TEXT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (source, at, answer), 
	FOREIGN KEY(sample_id) REFERENCES samples (id)
);
INSERT INTO "verdicts" VALUES(1,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','c2','Ann Example','2026-11-21T12:00:00.000000+00:00','k1','replay:k1:Ann Example','shown',1,2.5,'');
INSERT INTO "verdicts" VALUES(2,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','c2','bob@example.org','2026-11-21T12:00:00.000000+00:00','k1','17','shown',1,3.5,'clear');
CREATE INDEX ix_iteration_events_number ON iteration_events (number);
CREATE INDEX ix_paths_sample_id ON paths (sample_id);
CREATE INDEX ix_label_events_sample_id ON label_events (sample_id);
CREATE INDEX ix_label_events_iteration ON label_events (iteration);
CREATE INDEX ix_verdicts_sample_id ON verdicts (sample_id);
CREATE INDEX ix_verdicts_iteration ON verdicts (iteration);
CREATE INDEX ix_verdicts_source ON verdicts (source);
CREATE INDEX ix_queue_iteration ON queue (iteration);
CREATE INDEX ix_queue_sample_id ON queue (sample_id);
CREATE TRIGGER about_no_update BEFORE update ON about BEGIN SELECT RAISE(ABORT, 'the ledger only grows: update on about refused'); END;
CREATE TRIGGER about_no_delete BEFORE delete ON about BEGIN SELECT RAISE(ABORT, 'the ledger only grows: delete on about refused'); END;
CREATE TRIGGER class_events_no_update BEFORE update ON class_events BEGIN SELECT RAISE(ABORT, 'the ledger only grows: update on class_events refused'); END;
CREATE TRIGGER class_events_no_delete BEFORE delete ON class_events BEGIN SELECT RAISE(ABORT, 'the ledger only grows: delete on class_events refused'); END;
CREATE TRIGGER iteration_events_no_update BEFORE update ON iteration_events BEGIN SELECT RAISE(ABORT, 'the ledger only grows: update on iteration_events refused'); END;
CREATE TRIGGER iteration_events_no_delete BEFORE delete ON iteration_events BEGIN SELECT RAISE(ABORT, 'the ledger only grows: delete on iteration_events refused'); END;
CREATE TRIGGER samples_no_update BEFORE update ON samples BEGIN SELECT RAISE(ABORT, 'the ledger only grows: update on samples refused'); END;
CREATE TRIGGER samples_no_delete BEFORE delete ON samples BEGIN SELECT RAISE(ABORT, 'the ledger only grows: delete on samples refused'); END;
CREATE TRIGGER label_events_no_update BEFORE update ON label_events BEGIN SELECT RAISE(ABORT, 'the ledger only grows: update on label_events refused'); END;
CREATE TRIGGER label_events_no_delete BEFORE delete ON label_events BEGIN SELECT RAISE(ABORT, 'the ledger only grows: delete on label_events refused'); END;
CREATE TRIGGER paths_no_update BEFORE update ON paths BEGIN SELECT RAISE(ABORT, 'the ledger only grows: update on paths refused'); END;
CREATE TRIGGER paths_no_delete BEFORE delete ON paths BEGIN SELECT RAISE(ABORT, 'the ledger only grows: delete on paths refused'); END;
CREATE TRIGGER queue_no_update BEFORE update ON queue BEGIN SELECT RAISE(ABORT, 'the ledger only grows: update on queue refused'); END;
CREATE TRIGGER queue_no_delete BEFORE delete ON queue BEGIN SELECT RAISE(ABORT, 'the ledger only grows: delete on queue refused'); END;
CREATE TRIGGER verdicts_no_update BEFORE update ON verdicts BEGIN SELECT RAISE(ABORT, 'the ledger only grows: update on verdicts refused'); END;
CREATE TRIGGER verdicts_no_delete BEFORE delete ON verdicts BEGIN SELECT RAISE(ABORT, 'the ledger only grows: delete on verdicts refused'); END;
COMMIT;
