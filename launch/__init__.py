"""Programs, one a verb: `python -m launch.prepare`, `make_sids`, `train`, `evaluate`, …"""
