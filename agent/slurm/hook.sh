#!/bin/sh
# Leaves one event of Slurm for callback-agent. Slurm runs it as PrologSlurmctld, EpilogSlurmctld,
# JobCompLoc (with JobCompType=jobcomp/script), Prolog and Epilog, each time with the event in its
# environment. A hook that fails drains the node or holds the job, so this one never fails. It waits
# for the disk alone. If it cannot leave an event, it says so on standard error and in the system log.

spool=/var/spool/callback-agent

PATH=/usr/sbin:/usr/bin:/sbin:/bin
umask 077
# The name has the time since the start of the machine: clocks are set, and this one is not.
read -r boot </proc/sys/kernel/random/boot_id
read -r uptime _ </proc/uptime
name=$boot.$uptime.$$
# The environment as Slurm gave it: a shell may change its own, as bash does with UID.
# conv=fsync: it is on the disk before it gets its name.
if
    said=$(
        {
            dd if="/proc/$$/environ" of="$spool/$name.tmp" bs=64k conv=fsync,excl status=none &&
                mv -f "$spool/$name.tmp" "$spool/$name.event" &&
                sync "$spool"
        } 2>&1
    )
then
    exit 0
fi
rm -f "$spool/$name.tmp" 2>/dev/null
job=${SLURM_JOB_ID:-${JOBID:-unknown}}
said="callback-agent: an event of job $job is lost: $said"
printf '%s\n' "$said" >&2
logger -t callback-agent -- "$said" 2>/dev/null
exit 0
