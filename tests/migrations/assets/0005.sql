-- What revision 0005 held: as 0004, with a run of some priority: a failed run with a mapped task in a pool, a rerun of what failed in it, in
-- which `load` was marked, and the run of stored_flow.py whose process was killed while `hold` ran. Host, processes and
-- files are changed.
BEGIN;
INSERT INTO liteflow_dag (id, dag_id, description, tags, params, file, structure_digest, created_at, updated_at, retain_runs, retain_days)
VALUES (1, 'etl', 'Orders into the warehouse', '["a"]', '{"day":"2026-01-01"}', '/srv/etl.py', '2b4fe57e8966572e17b5404559f8202181d032d5482630dc4ebb16196c96bef5', 1795923603256497, 1795923603380608, 30, 90.0),
       (2, 'stored', 'Orders', '[]', '{}', '/srv/stored_flow.py', '1f89d7a5984e4134fb3ec5b536a3a3e53c54df9042472a7892b5e237b7835dea', 1795923603938505, 1795923603938505, NULL, NULL);
INSERT INTO liteflow_executor (id, token, host, pid, process_started_at, started_at, ended_at)
VALUES (1, '68929257931a93df', 'host', 4242, 99, 1795923603248169, 1795923603340271),
       (2, 'da96e7addfe4e626', 'host', 4243, 99, 1795923603361958, 1795923603467045),
       (3, 'd1628a2994d6665d', 'host', 4244, 99, 1795923603935415, NULL);
INSERT INTO liteflow_pool (id, name, slots, description)
VALUES (1, 'warehouse', 2, NULL);
INSERT INTO liteflow_dag_run (id, dag_pk, run_id, state, end_reason, logical_date, params, structure_digest, executor_pk, created_at, started_at, ended_at, cancel_requested_at, rerun_of)
VALUES (1, 1, 'nightly-1', 'failed', NULL, 1795923603254180, '{"day":"2026-01-01"}', '2b4fe57e8966572e17b5404559f8202181d032d5482630dc4ebb16196c96bef5', 1, 1795923603256497, 1795923603284077, 1795923603326546, NULL, NULL),
       (2, 1, 'nightly-2', 'success', NULL, 1795923603254180, '{"day":"2026-01-01"}', '2b4fe57e8966572e17b5404559f8202181d032d5482630dc4ebb16196c96bef5', 2, 1795923603380608, 1795923603418509, 1795923603457012, NULL, 'nightly-1'),
       (3, 2, 'interrupted', 'running', NULL, 1795923603938289, '{}', '1f89d7a5984e4134fb3ec5b536a3a3e53c54df9042472a7892b5e237b7835dea', 3, 1795923603938505, 1795923603951858, NULL, NULL, NULL);
INSERT INTO liteflow_task_instance (id, run_pk, task_id, map_index, upstream, trigger_rule, state, end_reason, generation, try_number, crashes, executor_pk, error, due_at, started_at, ended_at, pool, pool_slots, rendered_map_index, reschedules, uncounted_tries, cancel_requested_at, peak_rss_bytes, slot)
VALUES (1, 1, 'first', -1, '[]', 'all_success', 'success', NULL, 0, 1, 0, 1, NULL, NULL, 1795923603295625, 1795923603295727, NULL, NULL, NULL, 0, 0, NULL, NULL, 1),
       (2, 1, 'extract', 0, '[]', 'all_success', 'success', NULL, 0, 1, 0, 1, NULL, NULL, 1795923603295316, 1795923603295523, 'warehouse', 1, NULL, 0, 0, NULL, NULL, 2),
       (3, 1, 'extract', 1, '[]', 'all_success', 'success', NULL, 0, 1, 0, 1, NULL, NULL, 1795923603299828, 1795923603299936, 'warehouse', 1, NULL, 0, 0, NULL, NULL, 2),
       (4, 1, 'extract', 2, '[]', 'all_success', 'success', NULL, 0, 1, 0, 1, NULL, NULL, 1795923603300010, 1795923603300077, 'warehouse', 1, NULL, 0, 0, NULL, NULL, 2),
       (5, 1, 'note', -1, '[]', 'all_success', 'success', NULL, 0, 1, 0, 1, NULL, NULL, 1795923603300499, 1795923603300531, NULL, NULL, NULL, 0, 0, NULL, NULL, 1),
       (6, 1, 'load', -1, '["first"]', 'all_success', 'failed', 'error', 0, 2, 0, 1, 'ValueError: no such order', NULL, 1795923603305330, 1795923603305782, NULL, NULL, NULL, 0, 0, NULL, NULL, 1),
       (7, 2, 'first', -1, '[]', 'all_success', 'success', 'reused', 0, 0, 0, NULL, NULL, NULL, NULL, 1795923603380608, NULL, NULL, NULL, 0, 0, NULL, NULL, NULL),
       (8, 2, 'extract', 0, '[]', 'all_success', 'success', 'reused', 0, 0, 0, NULL, NULL, NULL, NULL, 1795923603380608, 'warehouse', 1, NULL, 0, 0, NULL, NULL, NULL),
       (9, 2, 'extract', 1, '[]', 'all_success', 'success', 'reused', 0, 0, 0, NULL, NULL, NULL, NULL, 1795923603380608, 'warehouse', 1, NULL, 0, 0, NULL, NULL, NULL),
       (10, 2, 'extract', 2, '[]', 'all_success', 'success', 'reused', 0, 0, 0, NULL, NULL, NULL, NULL, 1795923603380608, 'warehouse', 1, NULL, 0, 0, NULL, NULL, NULL),
       (11, 2, 'note', -1, '[]', 'all_success', 'success', 'reused', 0, 0, 0, NULL, NULL, NULL, NULL, 1795923603380608, NULL, NULL, NULL, 0, 0, NULL, NULL, NULL),
       (12, 2, 'load', -1, '["first"]', 'all_success', 'success', 'marked', 1, 2, 0, NULL, NULL, NULL, NULL, 1795923603470838, NULL, NULL, NULL, 0, 2, NULL, NULL, NULL),
       (13, 3, 'extract', -1, '[]', 'all_success', 'success', NULL, 0, 1, 0, 3, NULL, NULL, 1795923603972899, 1795923603973003, NULL, NULL, NULL, 0, 0, NULL, NULL, 1),
       (14, 3, 'hold', -1, '["extract"]', 'all_success', 'running', NULL, 0, 1, 0, 3, NULL, NULL, 1795923603975249, NULL, NULL, NULL, NULL, 0, 0, NULL, NULL, 1),
       (15, 3, 'report', -1, '["hold"]', 'all_success', 'pending', NULL, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, NULL, NULL, NULL);
INSERT INTO liteflow_task_try (id, task_instance_pk, try_number, generation, state, end_reason, error, started_at, ended_at, peak_rss_bytes, slot)
VALUES (1, 6, 1, 0, 'failed', 'error', 'ValueError: no such order', 1795923603300741, 1795923603301186, NULL, 2),
       (2, 12, 1, 0, 'failed', 'error', 'ValueError: no such order', 1795923603444387, 1795923603444936, NULL, 1),
       (3, 12, 2, 0, 'failed', 'error', 'ValueError: no such order', 1795923603448105, 1795923603448376, NULL, 1);
INSERT INTO liteflow_xcom (id, task_instance_pk, key, encoding, size_bytes, sha256, value)
VALUES (1, 2, 'return_value', 'json', 2, X'4a44dc15364204a80fe80e9039455cc1608281820fe2b24f1e5233ade6af1dd5', X'3130'),
       (2, 1, 'return_value', 'json', 2, X'f5ca38f748a1d6eaf726b8a42fb575c3c71f1864a8143301782de13da2d9202b', X'3230'),
       (3, 3, 'return_value', 'json', 2, X'f5ca38f748a1d6eaf726b8a42fb575c3c71f1864a8143301782de13da2d9202b', X'3230'),
       (4, 4, 'return_value', 'json', 2, X'624b60c58c9d8bfb6ff1886c2fd605d2adeb6ea4da576068201b6c6958ce93f4', X'3330'),
       (5, 7, 'return_value', 'json', 2, X'f5ca38f748a1d6eaf726b8a42fb575c3c71f1864a8143301782de13da2d9202b', X'3230'),
       (6, 8, 'return_value', 'json', 2, X'4a44dc15364204a80fe80e9039455cc1608281820fe2b24f1e5233ade6af1dd5', X'3130'),
       (7, 9, 'return_value', 'json', 2, X'f5ca38f748a1d6eaf726b8a42fb575c3c71f1864a8143301782de13da2d9202b', X'3230'),
       (8, 10, 'return_value', 'json', 2, X'624b60c58c9d8bfb6ff1886c2fd605d2adeb6ea4da576068201b6c6958ce93f4', X'3330'),
       (9, 13, 'return_value', 'json', 7, X'a615eeaee21de5179de080de8c3052c8da901138406ba71c38c032845f7d54f4', X'5b312c322c335d');
INSERT INTO liteflow_log_record (id, task_instance_pk, try_number, at, level, logger, message)
VALUES (1, 2, 1, 1795923603295732, NULL, NULL, 'row 1'),
       (2, 1, 1, 1795923603299815, NULL, NULL, 'row 2'),
       (3, 3, 1, 1795923603300462, NULL, NULL, 'row 2'),
       (4, 4, 1, 1795923603300462, NULL, NULL, 'row 3'),
       (5, 6, 1, 1795923603301306, 40, 'liteflow.task', 'Traceback (most recent call last):'),
       (6, 6, 1, 1795923603301306, 40, 'liteflow.task', '  File "/srv/etl.py", line 8, in load'),
       (7, 6, 1, 1795923603301306, 40, 'liteflow.task', '    if row == 20: raise ValueError("no such order")'),
       (8, 6, 1, 1795923603301306, 40, 'liteflow.task', '                  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^'),
       (9, 6, 1, 1795923603301306, 40, 'liteflow.task', 'ValueError: no such order'),
       (10, 6, 2, 1795923603305896, 40, 'liteflow.task', 'Traceback (most recent call last):'),
       (11, 6, 2, 1795923603305896, 40, 'liteflow.task', '  File "/srv/etl.py", line 8, in load'),
       (12, 6, 2, 1795923603305896, 40, 'liteflow.task', '    if row == 20: raise ValueError("no such order")'),
       (13, 6, 2, 1795923603305896, 40, 'liteflow.task', '                  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^'),
       (14, 6, 2, 1795923603305896, 40, 'liteflow.task', 'ValueError: no such order'),
       (15, 6, 2, 1795923603326342, NULL, NULL, 'told of load'),
       (16, 12, 1, 1795923603445047, 40, 'liteflow.task', 'Traceback (most recent call last):'),
       (17, 12, 1, 1795923603445047, 40, 'liteflow.task', '  File "/srv/etl.py", line 8, in load'),
       (18, 12, 1, 1795923603445047, 40, 'liteflow.task', '    if row == 20: raise ValueError("no such order")'),
       (19, 12, 1, 1795923603445047, 40, 'liteflow.task', '                  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^'),
       (20, 12, 1, 1795923603445047, 40, 'liteflow.task', 'ValueError: no such order'),
       (21, 12, 2, 1795923603448484, 40, 'liteflow.task', 'Traceback (most recent call last):'),
       (22, 12, 2, 1795923603448484, 40, 'liteflow.task', '  File "/srv/etl.py", line 8, in load'),
       (23, 12, 2, 1795923603448484, 40, 'liteflow.task', '    if row == 20: raise ValueError("no such order")'),
       (24, 12, 2, 1795923603448484, 40, 'liteflow.task', '                  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^'),
       (25, 12, 2, 1795923603448484, 40, 'liteflow.task', 'ValueError: no such order'),
       (26, 12, 2, 1795923603456826, NULL, NULL, 'told of load');
UPDATE liteflow_dag_run SET priority = 7 WHERE id = 1;
COMMIT;
