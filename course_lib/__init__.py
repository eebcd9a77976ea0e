"""What the chapters share. A room imports only rooms to its left:

standin → data → tasks → models → diagnostics → graphs → training → replicas → faults → zoo →
checks → speedrun → measures → records → verdicts → experiments → plots → pages
"""
