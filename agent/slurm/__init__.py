"""The adapter for Slurm: universal callbacks on a farm that Slurm runs.

    slurmctld, slurmd -> hook.sh -> spool -> daemon -> agent -> callbacks run
                                       squeue -/          \\-> farm: scancel, scontrol

Slurm runs the hook for each event. One program is all of its hooks (PrologSlurmctld,
EpilogSlurmctld, jobcomp/script, Prolog, Epilog): the environment that Slurm gives it says which
(`mapping.kind_of`). It leaves that environment in the spool and ends. The installed hook is
`hook.sh` with the line `spool=...` set to the spool's path.

The spool belongs to the user that slurmctld runs as, mode 0700. The daemon's state (the jobs it
knows, what is pending, callbacks that wait) is one database in a directory of its own.
"""

#: Where hooks leave events, by default. `hook.sh` has the same path.
SPOOL = "/var/spool/callback-agent"
#: The directory of the daemon's database, lock and status file.
STATE = "/var/lib/callback-agent-slurm"
#: The daemon's log.
LOG = "/var/log/callback-agent/slurm.log"
#: The user that callbacks run as, where the daemon is root's.
RUN_AS = "nobody"
#: Callbacks that run at a time.
AT_ONCE = 8
#: Seconds between two looks at the queue: how late it is noticed that a job waits or is held.
POLL_INTERVAL = 5.0
#: The longest: a day.
MAX_POLL_INTERVAL = 86_400.0
