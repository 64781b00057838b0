"""tabvae under Airflow: operators, a task group and a trigger over the steps of `tabvae_core`.

    from tabvae_airflow.refresh import refresh_group      the whole refresh as a task group of a DAG
    from tabvae_airflow.operators import ...              its tasks one by one

Nothing is imported here: Airflow reads the provider's metadata each time that it starts.
"""
