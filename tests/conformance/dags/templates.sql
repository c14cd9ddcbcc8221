select * from days where day = '{{ ds }}' and dag = '{{ dag.dag_id }}'
