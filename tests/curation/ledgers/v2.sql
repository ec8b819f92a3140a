BEGIN TRANSACTION;
CREATE TABLE about (
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, block INTEGER NOT NULL DEFAULT 1, 
	PRIMARY KEY ("key")
);
INSERT INTO "about" VALUES('schema','2',1);
INSERT INTO "about" VALUES('id','00000000000000000000000000000000',1);
CREATE TABLE blocks (
	number INTEGER NOT NULL, 
	rows INTEGER NOT NULL, 
	hash TEXT NOT NULL, 
	at TEXT NOT NULL, 
	PRIMARY KEY (number)
);
INSERT INTO "blocks" VALUES(1,17,'268070c20163c71945f1761afe4a93f70ffd5d34bf1dec7fe25fbae48cd6337e','2026-11-21T18:44:06.310762+00:00');
CREATE TABLE class_events (
	id INTEGER NOT NULL, 
	kind TEXT NOT NULL, 
	class_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	at TEXT NOT NULL, 
	who TEXT NOT NULL, block INTEGER NOT NULL DEFAULT 1, 
	PRIMARY KEY (id)
);
INSERT INTO "class_events" VALUES(1,'add','c1','cat','2026-11-21T12:00:00.000000+00:00','import',1);
INSERT INTO "class_events" VALUES(2,'add','c2','dog','2026-11-21T12:00:00.000000+00:00','import',1);
CREATE TABLE iteration_events (
	id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	state TEXT NOT NULL, 
	at TEXT NOT NULL, 
	message TEXT NOT NULL, block INTEGER NOT NULL DEFAULT 1, 
	PRIMARY KEY (id)
);
INSERT INTO "iteration_events" VALUES(1,1,'preparing','2026-11-21T12:00:00.000000+00:00','',1);
INSERT INTO "iteration_events" VALUES(2,1,'waiting','2026-11-21T12:00:00.000000+00:00','',1);
INSERT INTO "iteration_events" VALUES(3,1,'done','2026-11-21T12:00:00.000000+00:00','',1);
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
	undoes INTEGER, block INTEGER NOT NULL DEFAULT 1, 
	PRIMARY KEY (id), 
	FOREIGN KEY(sample_id) REFERENCES samples (id)
);
INSERT INTO "label_events" VALUES(1,'import','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','class',NULL,NULL,'c1',0,'import','2026-11-21T12:00:00.000000+00:00','label as given',0,'[]',NULL,1);
INSERT INTO "label_events" VALUES(2,'import','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','class',NULL,NULL,'c2',0,'import','2026-11-21T12:00:00.000000+00:00','label as given',0,'[]',NULL,1);
INSERT INTO "label_events" VALUES(3,'decision','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','class',NULL,'c1','c2',0,'consensus','2026-11-21T12:00:00.000000+00:00','people agree',1,'[1, 2]',NULL,1);
INSERT INTO "label_events" VALUES(4,'undo','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','class',NULL,'c2','c1',0,'p1','2026-11-21T12:00:00.000000+00:00','undone',1,'[]',3,1);
CREATE TABLE paths (
	number INTEGER NOT NULL, 
	sample_id TEXT NOT NULL, 
	path TEXT NOT NULL, 
	root TEXT NOT NULL, 
	given TEXT, 
	metadata TEXT NOT NULL, block INTEGER NOT NULL DEFAULT 1, 
	PRIMARY KEY (number), 
	UNIQUE (root, path, sample_id), 
	FOREIGN KEY(sample_id) REFERENCES samples (id)
);
INSERT INTO "paths" VALUES(1,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','a.png','/images','c1','{"light": 0.5}',1);
INSERT INTO "paths" VALUES(2,'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','b.png','/images','c2','{}',1);
CREATE TABLE people (
	id TEXT NOT NULL, 
	name TEXT, 
	PRIMARY KEY (id)
);
INSERT INTO "people" VALUES('p1','eve');
INSERT INTO "people" VALUES('p2','Ann Example');
INSERT INTO "people" VALUES('p3','bob@example.org');
CREATE TABLE queue (
	"key" TEXT NOT NULL, 
	sample_id TEXT NOT NULL, 
	iteration INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	entry TEXT NOT NULL, block INTEGER NOT NULL DEFAULT 1, 
	PRIMARY KEY ("key"), 
	FOREIGN KEY(sample_id) REFERENCES samples (id)
);
INSERT INTO "queue" VALUES('k1','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',1,0,'{"key": "k1", "sample_id": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "iteration": 1, "position": 0, "mode": "shown", "given": "c1", "suggested": "c2", "reason": "looks like a dog", "related": [], "opinions": 1}',1);
CREATE TABLE releases (
	id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	at TEXT NOT NULL, 
	who TEXT NOT NULL, 
	note TEXT NOT NULL, 
	label_event INTEGER NOT NULL, 
	class_event INTEGER NOT NULL, 
	path INTEGER NOT NULL, 
	rows INTEGER NOT NULL, 
	checksum TEXT NOT NULL, 
	block INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (name)
);
CREATE TABLE remarks (
	id INTEGER NOT NULL, 
	sample_id TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	cause TEXT NOT NULL, 
	note TEXT NOT NULL, 
	who TEXT NOT NULL, 
	at TEXT NOT NULL, 
	iteration INTEGER NOT NULL, 
	block INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(sample_id) REFERENCES samples (id)
);
CREATE TABLE samples (
	number INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	split TEXT NOT NULL, 
	group_key TEXT, 
	width INTEGER NOT NULL, 
	height INTEGER NOT NULL, 
	at TEXT NOT NULL, block INTEGER NOT NULL DEFAULT 1, 
	PRIMARY KEY (number), 
	UNIQUE (id)
);
INSERT INTO "samples" VALUES(1,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','train',NULL,4,4,'2026-11-21T12:00:00.000000+00:00',1);
INSERT INTO "samples" VALUES(2,'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','holdout','g',4,4,'2026-11-21T12:00:00.000000+00:00',1);
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
	note TEXT NOT NULL, block INTEGER NOT NULL DEFAULT 1, 
	PRIMARY KEY (id), 
	UNIQUE (source, at, answer), 
	FOREIGN KEY(sample_id) REFERENCES samples (id)
);
INSERT INTO "verdicts" VALUES(1,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','c2','p2','2026-11-21T12:00:00.000000+00:00','k1','replay:k1:p2','shown',1,2.5,'',1);
INSERT INTO "verdicts" VALUES(2,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','c2','p3','2026-11-21T12:00:00.000000+00:00','k1','17','shown',1,3.5,'clear',1);
CREATE INDEX ix_iteration_events_number ON iteration_events (number);
CREATE INDEX ix_paths_sample_id ON paths (sample_id);
CREATE INDEX ix_label_events_sample_id ON label_events (sample_id);
CREATE INDEX ix_label_events_iteration ON label_events (iteration);
CREATE INDEX ix_verdicts_sample_id ON verdicts (sample_id);
CREATE INDEX ix_verdicts_iteration ON verdicts (iteration);
CREATE INDEX ix_verdicts_source ON verdicts (source);
CREATE INDEX ix_queue_iteration ON queue (iteration);
CREATE INDEX ix_queue_sample_id ON queue (sample_id);
CREATE INDEX ix_remarks_sample_id ON remarks (sample_id);
CREATE INDEX ix_paths_path ON paths (path);
CREATE TRIGGER about_no_update BEFORE update ON about BEGIN SELECT RAISE(ABORT, 'the ledger only grows: update on about refused'); END;
CREATE TRIGGER about_no_delete BEFORE delete ON about BEGIN SELECT RAISE(ABORT, 'the ledger only grows: delete on about refused'); END;
CREATE TRIGGER class_events_no_update BEFORE update ON class_events BEGIN SELECT RAISE(ABORT, 'the ledger only grows: update on class_events refused'); END;
CREATE TRIGGER class_events_no_delete BEFORE delete ON class_events BEGIN SELECT RAISE(ABORT, 'the ledger only grows: delete on class_events refused'); END;
CREATE TRIGGER samples_no_update BEFORE update ON samples BEGIN SELECT RAISE(ABORT, 'the ledger only grows: update on samples refused'); END;
CREATE TRIGGER samples_no_delete BEFORE delete ON samples BEGIN SELECT RAISE(ABORT, 'the ledger only grows: delete on samples refused'); END;
CREATE TRIGGER paths_no_update BEFORE update ON paths BEGIN SELECT RAISE(ABORT, 'the ledger only grows: update on paths refused'); END;
CREATE TRIGGER paths_no_delete BEFORE delete ON paths BEGIN SELECT RAISE(ABORT, 'the ledger only grows: delete on paths refused'); END;
CREATE TRIGGER label_events_no_update BEFORE update ON label_events BEGIN SELECT RAISE(ABORT, 'the ledger only grows: update on label_events refused'); END;
CREATE TRIGGER label_events_no_delete BEFORE delete ON label_events BEGIN SELECT RAISE(ABORT, 'the ledger only grows: delete on label_events refused'); END;
CREATE TRIGGER verdicts_no_update BEFORE update ON verdicts BEGIN SELECT RAISE(ABORT, 'the ledger only grows: update on verdicts refused'); END;
CREATE TRIGGER verdicts_no_delete BEFORE delete ON verdicts BEGIN SELECT RAISE(ABORT, 'the ledger only grows: delete on verdicts refused'); END;
CREATE TRIGGER queue_no_update BEFORE update ON queue BEGIN SELECT RAISE(ABORT, 'the ledger only grows: update on queue refused'); END;
CREATE TRIGGER queue_no_delete BEFORE delete ON queue BEGIN SELECT RAISE(ABORT, 'the ledger only grows: delete on queue refused'); END;
CREATE TRIGGER iteration_events_no_update BEFORE update ON iteration_events BEGIN SELECT RAISE(ABORT, 'the ledger only grows: update on iteration_events refused'); END;
CREATE TRIGGER iteration_events_no_delete BEFORE delete ON iteration_events BEGIN SELECT RAISE(ABORT, 'the ledger only grows: delete on iteration_events refused'); END;
CREATE TRIGGER remarks_no_update BEFORE update ON remarks BEGIN SELECT RAISE(ABORT, 'the ledger only grows: update on remarks refused'); END;
CREATE TRIGGER remarks_no_delete BEFORE delete ON remarks BEGIN SELECT RAISE(ABORT, 'the ledger only grows: delete on remarks refused'); END;
CREATE TRIGGER releases_no_update BEFORE update ON releases BEGIN SELECT RAISE(ABORT, 'the ledger only grows: update on releases refused'); END;
CREATE TRIGGER releases_no_delete BEFORE delete ON releases BEGIN SELECT RAISE(ABORT, 'the ledger only grows: delete on releases refused'); END;
CREATE TRIGGER blocks_no_update BEFORE update ON blocks BEGIN SELECT RAISE(ABORT, 'the ledger only grows: update on blocks refused'); END;
CREATE TRIGGER blocks_no_delete BEFORE delete ON blocks BEGIN SELECT RAISE(ABORT, 'the ledger only grows: delete on blocks refused'); END;
CREATE TRIGGER people_no_delete BEFORE delete ON people BEGIN SELECT RAISE(ABORT, 'the ledger only grows: delete on people refused'); END;
COMMIT;
