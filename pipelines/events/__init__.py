"""Live events: who did what lately, in memory, with a log and snapshots that outlive a kill.

`messages` turns JSON into batches of events, `log` keeps them by offset, `store` answers what a
user did and what is new for them, `snapshot` brings the store back; `kafka` feeds one from Kafka.
Ids are whole numbers, times are milliseconds since 1970.
"""
