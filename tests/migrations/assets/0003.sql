-- What revision 0003 held, written by that version: a failed run with a mapped task in a pool, and the run of
-- stored_flow.py whose process was killed while `hold` ran. Host, processes and files are changed.
BEGIN;
INSERT INTO liteflow_dag (id, dag_id, description, tags, params, file, structure_digest, created_at, updated_at)
VALUES (1, 'etl', 'Orders into the warehouse', '["a"]', '{"day":"2026-01-01"}', '/srv/etl.py', '58a2542b4eb2f53bc8f522fb3f15c2f92715c37790b4fde98b78d8aad585c902', 1795544770399772, 1795544770399772),
       (2, 'stored', 'Orders', '[]', '{}', '/srv/stored_flow.py', '1f89d7a5984e4134fb3ec5b536a3a3e53c54df9042472a7892b5e237b7835dea', 1795544771258206, 1795544771258206);
INSERT INTO liteflow_executor (id, token, host, pid, process_started_at, started_at, ended_at)
VALUES (1, '77f3457004020f8c', 'host', 4242, 99, 1795544770395006, 1795544770518551),
       (2, '6036c35cd8dd2795', 'host', 4243, 99, 1795544771254296, NULL);
INSERT INTO liteflow_pool (id, name, slots, description)
VALUES (1, 'warehouse', 2, NULL);
INSERT INTO liteflow_dag_run (id, dag_pk, run_id, state, end_reason, logical_date, params, structure_digest, executor_pk, created_at, started_at, ended_at, cancel_requested_at)
VALUES (1, 1, 'nightly-1', 'failed', NULL, 1795544770398273, '{"day":"2026-01-01"}', '58a2542b4eb2f53bc8f522fb3f15c2f92715c37790b4fde98b78d8aad585c902', 1, 1795544770399772, 1795544770411789, 1795544770500563, NULL),
       (2, 2, 'interrupted', 'running', NULL, 1795544771258177, '{}', '1f89d7a5984e4134fb3ec5b536a3a3e53c54df9042472a7892b5e237b7835dea', 2, 1795544771258206, 1795544771272785, NULL, NULL);
INSERT INTO liteflow_task_instance (id, run_pk, task_id, map_index, upstream, trigger_rule, state, end_reason, generation, try_number, crashes, executor_pk, error, due_at, started_at, ended_at, pool, pool_slots, rendered_map_index, reschedules, uncounted_tries, cancel_requested_at, peak_rss_bytes)
VALUES (1, 1, 'load', 0, '[]', 'all_success', 'success', NULL, 0, 1, 0, 1, NULL, NULL, 1795544770463866, 1795544770464086, 'warehouse', 1, NULL, 0, 0, NULL, NULL),
       (2, 1, 'load', 1, '[]', 'all_success', 'failed', 'error', 0, 2, 0, 1, 'ValueError: no such order', NULL, 1795544770479611, 1795544770480279, 'warehouse', 1, NULL, 0, 0, NULL, NULL),
       (3, 1, 'load', 2, '[]', 'all_success', 'success', NULL, 0, 1, 0, 1, NULL, NULL, 1795544770470266, 1795544770470449, 'warehouse', 1, NULL, 0, 0, NULL, NULL),
       (4, 1, 'total', -1, '["load"]', 'all_success', 'upstream_failed', NULL, 0, 0, 0, NULL, NULL, NULL, NULL, 1795544770481148, NULL, NULL, NULL, 0, 0, NULL, NULL),
       (5, 2, 'extract', -1, '[]', 'all_success', 'success', NULL, 0, 1, 0, 2, NULL, NULL, 1795544771290668, 1795544771290776, NULL, NULL, NULL, 0, 0, NULL, NULL),
       (6, 2, 'hold', -1, '["extract"]', 'all_success', 'running', NULL, 0, 1, 0, 2, NULL, NULL, 1795544771298486, NULL, NULL, NULL, NULL, 0, 0, NULL, NULL),
       (7, 2, 'report', -1, '["hold"]', 'all_success', 'pending', NULL, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, NULL, NULL);
INSERT INTO liteflow_task_try (id, task_instance_pk, try_number, generation, state, end_reason, error, started_at, ended_at, peak_rss_bytes)
VALUES (1, 2, 1, 0, 'failed', 'error', 'ValueError: no such order', 1795544770471742, 1795544770472465, NULL);
INSERT INTO liteflow_xcom (id, task_instance_pk, key, encoding, size_bytes, sha256, value)
VALUES (1, 1, 'return_value', 'json', 2, X'4a44dc15364204a80fe80e9039455cc1608281820fe2b24f1e5233ade6af1dd5', X'3130'),
       (2, 3, 'return_value', 'json', 2, X'624b60c58c9d8bfb6ff1886c2fd605d2adeb6ea4da576068201b6c6958ce93f4', X'3330'),
       (3, 5, 'return_value', 'json', 7, X'a615eeaee21de5179de080de8c3052c8da901138406ba71c38c032845f7d54f4', X'5b312c322c335d');
INSERT INTO liteflow_log_record (id, task_instance_pk, try_number, at, level, logger, message)
VALUES (1, 1, 1, 1795544770464405, NULL, NULL, 'row 1'),
       (2, 3, 1, 1795544770470803, NULL, NULL, 'row 3'),
       (3, 2, 1, 1795544770472635, NULL, NULL, 'row 2'),
       (4, 2, 1, 1795544770472635, 40, 'liteflow.task', 'Traceback (most recent call last):'),
       (5, 2, 1, 1795544770472635, 40, 'liteflow.task', '  File "/srv/etl.py", line 6, in load'),
       (6, 2, 1, 1795544770472635, 40, 'liteflow.task', '    if row == 2: raise ValueError("no such order")'),
       (7, 2, 1, 1795544770472635, 40, 'liteflow.task', '                 ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^'),
       (8, 2, 1, 1795544770472635, 40, 'liteflow.task', 'ValueError: no such order'),
       (9, 2, 2, 1795544770480686, NULL, NULL, 'row 2'),
       (10, 2, 2, 1795544770480686, 40, 'liteflow.task', 'Traceback (most recent call last):'),
       (11, 2, 2, 1795544770480686, 40, 'liteflow.task', '  File "/srv/etl.py", line 6, in load'),
       (12, 2, 2, 1795544770480686, 40, 'liteflow.task', '    if row == 2: raise ValueError("no such order")'),
       (13, 2, 2, 1795544770480686, 40, 'liteflow.task', '                 ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^'),
       (14, 2, 2, 1795544770480686, 40, 'liteflow.task', 'ValueError: no such order'),
       (15, 2, 2, 1795544770500309, NULL, NULL, 'told of load');
COMMIT;
