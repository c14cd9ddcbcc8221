-- What revision 0001 of the schema held after two runs of one dag, a third one having been deleted, and the run of
-- stored_flow.py whose process was killed while `hold` ran.
BEGIN;
INSERT INTO liteflow_dag (id, dag_id, description, tags, params, file, structure_digest, created_at, updated_at)
VALUES (1, 'etl', 'Orders', '["a"]', '{"day": "2026-01-01"}', '/srv/etl.py', 'x', 1767225600000000, 1767225600000001),
       (2, 'stored', 'Orders', '[]', '{}', '/srv/stored_flow.py',
        '1f89d7a5984e4134fb3ec5b536a3a3e53c54df9042472a7892b5e237b7835dea', 1767400000000000, 1767400000000000);
INSERT INTO liteflow_executor (id, token, host, pid, process_started_at, started_at, ended_at)
VALUES (1, '00112233aabbccdd', 'host', 4242, 99, 1767225600000000, 1767225660000000),
       (2, '44556677aabbccdd', 'host', 4343, NULL, 1767312000000000, NULL),
       (3, '8899aabbaabbccdd', 'host', 4444, 99, 1767400000000000, NULL);
INSERT INTO liteflow_pool (id, name, slots, description) VALUES (1, 'warehouse', 2, 'The one that is slow');
INSERT INTO liteflow_dag_run (id, dag_pk, run_id, state, end_reason, logical_date, params, structure_digest,
                              executor_pk, created_at, started_at, ended_at, cancel_requested_at)
VALUES (1, 1, 'nightly-1', 'failed', NULL, 1767225600000000, '{"day": "2026-01-01"}', 'x', 1,
        1767225600000000, 1767225600000010, 1767225660000000, NULL),
       (2, 1, 'nightly-2', 'running', NULL, 1767312000000000, '{"day": "2026-01-01"}', 'x', 2,
        1767312000000000, 1767312000000010, NULL, NULL),
       (4, 2, 'interrupted', 'running', NULL, 1767400000000000, '{}',
        '1f89d7a5984e4134fb3ec5b536a3a3e53c54df9042472a7892b5e237b7835dea', 3,
        1767400000000000, 1767400000000010, NULL, NULL),
       (5, 1, 'deleted', 'success', NULL, 1767312000000000, '{}', 'x', 1,
        1767312000000000, 1767312000000010, 1767312000000020, NULL);
INSERT INTO liteflow_task_instance (id, run_pk, task_id, map_index, upstream, trigger_rule, state, end_reason,
                                    generation, try_number, crashes, executor_pk, error, due_at, started_at, ended_at)
VALUES (1, 1, 'extract', -1, '[]', 'all_success', 'success', NULL, 0, 2, 1, 1, NULL, NULL,
        1767225601000000, 1767225602000000),
       (2, 1, 'load', -1, '["extract"]', 'all_success', 'failed', 'timeout', 0, 1, 0, 1, 'TimeoutError: 5 s', NULL,
        1767225603000000, 1767225608000000),
       (3, 2, 'extract', -1, '[]', 'all_success', 'up_for_retry', 'error', 1, 1, 0, 2, 'ValueError: no', 1767312060000000,
        1767312001000000, 1767312002000000),
       (4, 2, 'load', -1, '["extract"]', 'all_success', 'pending', NULL, 0, 0, 0, NULL, NULL, NULL, NULL, NULL),
       (5, 4, 'extract', -1, '[]', 'all_success', 'success', NULL, 0, 1, 0, 3, NULL, NULL,
        1767400001000000, 1767400002000000),
       (6, 4, 'hold', -1, '["extract"]', 'all_success', 'running', NULL, 0, 1, 0, 3, NULL, NULL, 1767400003000000, NULL),
       (7, 4, 'report', -1, '["hold"]', 'all_success', 'pending', NULL, 0, 0, 0, NULL, NULL, NULL, NULL, NULL),
       (9, 5, 'extract', -1, '[]', 'all_success', 'success', NULL, 0, 1, 0, 1, NULL, NULL,
        1767312001000000, 1767312002000000);
INSERT INTO liteflow_task_try (id, task_instance_pk, try_number, generation, state, end_reason, error, started_at, ended_at)
VALUES (1, 1, 1, 0, 'failed', 'crashed', 'the worker died', 1767225600000020, 1767225600000030);
INSERT INTO liteflow_xcom (id, task_instance_pk, key, encoding, size_bytes, sha256, value)
VALUES (1, 1, 'return_value', 'json', 9, x'a36b1f2c3f84522dd1005145646617d7054c0851e97c72a039c0bdfac9fa07f3', CAST('[1, 2, 3]' AS BLOB)),
       (2, 5, 'return_value', 'json', 7, x'a615eeaee21de5179de080de8c3052c8da901138406ba71c38c032845f7d54f4', CAST('[1,2,3]' AS BLOB));
INSERT INTO liteflow_log_record (id, task_instance_pk, try_number, at, level, logger, message)
VALUES (1, 1, 1, 1767225600000025, NULL, NULL, 'first'),
       (2, 1, 2, 1767225601500000, 30, 'loader', 'second');
DELETE FROM liteflow_task_instance WHERE id = 9;
DELETE FROM liteflow_dag_run WHERE id = 5;
COMMIT;
