-- What revision 0002 held, written by that version: a failed run with a mapped task in a pool, and the run of
-- stored_flow.py whose process was killed while `hold` ran. Host, processes and files are changed.
BEGIN;
INSERT INTO liteflow_dag (id, dag_id, description, tags, params, file, structure_digest, created_at, updated_at)
VALUES (1, 'etl', 'Orders into the warehouse', '["a"]', '{"day":"2026-01-01"}', '/srv/etl.py', '58a2542b4eb2f53bc8f522fb3f15c2f92715c37790b4fde98b78d8aad585c902', 1795507020037456, 1795507020037456),
       (2, 'stored', 'Orders', '[]', '{}', '/srv/stored_flow.py', '1f89d7a5984e4134fb3ec5b536a3a3e53c54df9042472a7892b5e237b7835dea', 1795507026772131, 1795507026772131);
INSERT INTO liteflow_executor (id, token, host, pid, process_started_at, started_at, ended_at)
VALUES (1, '88d42ef53b62bf5b', 'host', 4242, 99, 1795507019926174, 1795507020506609),
       (2, 'aa9564c493ba25d9', 'host', 4243, 99, 1795507026633728, NULL);
INSERT INTO liteflow_pool (id, name, slots, description)
VALUES (1, 'warehouse', 2, NULL);
INSERT INTO liteflow_dag_run (id, dag_pk, run_id, state, end_reason, logical_date, params, structure_digest, executor_pk, created_at, started_at, ended_at, cancel_requested_at)
VALUES (1, 1, 'nightly-1', 'failed', NULL, 1795507020034510, '{"day":"2026-01-01"}', '58a2542b4eb2f53bc8f522fb3f15c2f92715c37790b4fde98b78d8aad585c902', 1, 1795507020037456, 1795507020157523, 1795507020414509, NULL),
       (2, 2, 'interrupted', 'running', NULL, 1795507026771996, '{}', '1f89d7a5984e4134fb3ec5b536a3a3e53c54df9042472a7892b5e237b7835dea', 2, 1795507026772131, 1795507026956798, NULL, NULL);
INSERT INTO liteflow_task_instance (id, run_pk, task_id, map_index, upstream, trigger_rule, state, end_reason, generation, try_number, crashes, executor_pk, error, due_at, started_at, ended_at, pool, pool_slots, rendered_map_index, reschedules)
VALUES (1, 1, 'load', 0, '[]', 'all_success', 'success', NULL, 0, 1, 0, 1, NULL, NULL, 1795507020249142, 1795507020284522, 'warehouse', 1, NULL, 0),
       (2, 1, 'load', 1, '[]', 'all_success', 'failed', 'error', 0, 2, 0, 1, 'ValueError: no such order', NULL, 1795507020346722, 1795507020347339, 'warehouse', 1, NULL, 0),
       (3, 1, 'load', 2, '[]', 'all_success', 'success', NULL, 0, 1, 0, 1, NULL, NULL, 1795507020351335, 1795507020351769, 'warehouse', 1, NULL, 0),
       (4, 1, 'total', -1, '["load"]', 'all_success', 'upstream_failed', NULL, 0, 0, 0, NULL, NULL, NULL, NULL, 1795507020348431, NULL, NULL, NULL, 0),
       (5, 2, 'extract', -1, '[]', 'all_success', 'success', NULL, 0, 1, 0, 2, NULL, NULL, 1795507027051865, 1795507027051994, NULL, NULL, NULL, 0),
       (6, 2, 'hold', -1, '["extract"]', 'all_success', 'running', NULL, 0, 1, 0, 2, NULL, NULL, 1795507027145883, NULL, NULL, NULL, NULL, 0),
       (7, 2, 'report', -1, '["hold"]', 'all_success', 'pending', NULL, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0);
INSERT INTO liteflow_task_try (id, task_instance_pk, try_number, generation, state, end_reason, error, started_at, ended_at)
VALUES (1, 2, 1, 0, 'failed', 'error', 'ValueError: no such order', 1795507020243458, 1795507020282512);
INSERT INTO liteflow_xcom (id, task_instance_pk, key, encoding, size_bytes, sha256, value)
VALUES (1, 1, 'return_value', 'json', 2, X'4a44dc15364204a80fe80e9039455cc1608281820fe2b24f1e5233ade6af1dd5', X'3130'),
       (2, 3, 'return_value', 'json', 2, X'624b60c58c9d8bfb6ff1886c2fd605d2adeb6ea4da576068201b6c6958ce93f4', X'3330'),
       (3, 5, 'return_value', 'json', 7, X'a615eeaee21de5179de080de8c3052c8da901138406ba71c38c032845f7d54f4', X'5b312c322c335d');
INSERT INTO liteflow_log_record (id, task_instance_pk, try_number, at, level, logger, message)
VALUES (1, 2, 1, 1795507020281102, NULL, NULL, 'row 2'),
       (2, 2, 1, 1795507020301003, 40, 'liteflow.task', 'Traceback (most recent call last):'),
       (3, 2, 1, 1795507020301003, 40, 'liteflow.task', '  File "/srv/etl.py", line 7, in load'),
       (4, 2, 1, 1795507020301003, 40, 'liteflow.task', '    if row == 2: raise ValueError("no such order")'),
       (5, 2, 1, 1795507020301003, 40, 'liteflow.task', '                 ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^'),
       (6, 2, 1, 1795507020301003, 40, 'liteflow.task', 'ValueError: no such order'),
       (7, 1, 1, 1795507020301128, NULL, NULL, 'row 1'),
       (8, 2, 2, 1795507020347563, NULL, NULL, 'row 2'),
       (9, 2, 2, 1795507020347563, 40, 'liteflow.task', 'Traceback (most recent call last):'),
       (10, 2, 2, 1795507020347563, 40, 'liteflow.task', '  File "/srv/etl.py", line 7, in load'),
       (11, 2, 2, 1795507020347563, 40, 'liteflow.task', '    if row == 2: raise ValueError("no such order")'),
       (12, 2, 2, 1795507020347563, 40, 'liteflow.task', '                 ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^'),
       (13, 2, 2, 1795507020347563, 40, 'liteflow.task', 'ValueError: no such order'),
       (14, 3, 1, 1795507020368659, NULL, NULL, 'row 3'),
       (15, 2, 2, 1795507020413766, NULL, NULL, 'told of load');
COMMIT;
