#!/bin/sh
# What strata's unit does on a machine with systemd: the body of a unit that comes after it, at each of three boots. The first
# ends as a machine does that is told to, the second as one whose power fails.
exec </dev/null >/dev/ttyS1 2>&1
stty -F /dev/ttyS1 -opost
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root

# NAME, what is wanted, what is so
is() {
    if [ "$2" = "$3" ]; then
        echo "test $1 ... ok"
    else
        echo "$1: wanted \"$2\", and there is \"$3\""
        echo "test $1 ... FAILED"
    fi
}
how() { strata inspect -f '{{.State.Status}} {{.State.ExitCode}}' "$1"; }
# Ends by its own signal alone, and says so.
run() { strata run -d --network none --stop-signal USR1 "$@" busybox sh -c "trap 'exit 7' USR1; trap '' TERM; while :; do sleep 0.2; done"; }

stage=$(cat /vm/stage)
echo "@begin systemd::$stage"
case $stage in
told)
    strata import /vm/busybox.tar busybox
    for policy in always unless-stopped on-failure no; do
        run --name $policy --restart $policy
    done
    run --name stopped --restart unless-stopped
    run --name gone --rm
    strata run -d --network none --name deaf --stop-timeout 1 busybox sleep 1000
    strata stop stopped
    is they_run 6 "$(strata ps -q | wc -l)"
    is the_unit_is_active active "$(systemctl is-active strata)"
    is so_many_processes_are_allowed 2048 "$(strata run --rm --network none busybox cat /sys/fs/cgroup/pids.max)"
    # Linux 6.1: layers that are id-mapped, and an overlay whose layers are named by their paths.
    mapped='cat /proc/self/uid_map; stat -c %u:%g /bin/busybox; echo x >/bin/x; stat -c %u:%g /bin/x'
    is ids_of_its_own "0 700000 65536 0:0 0:0" \
        "$(echo $(strata run --rm --network none --userns 700000:65536 busybox sh -c "$mapped"))"
    is and_what_is_below_keeps_its_owner "0:0" \
        "$(stat -c %u:%g /var/lib/strata/snapshots/*/fs/bin/busybox | sort -u)"
    # The snapshotter's units: whoever connects to the socket starts the service, as often as it ended.
    socket=/run/strata/snapshotter.sock
    server() { systemctl show -p MainPID --value strata-snapshotter; }
    # Who connects is heard when the service says that it is ready.
    ready() {
        strata fsck --containerd=$socket >/dev/null
        for _ in $(seq 100); do
            [ "$(systemctl is-active strata-snapshotter)" = active ] && break
            sleep 0.1
        done
        systemctl is-active strata-snapshotter
    }
    systemctl start strata-snapshotter.socket
    is the_socket_is_roots_alone "600 0" "$(stat -c '%a %u' $socket)"
    is nothing_runs_before_it_is_wanted inactive "$(systemctl is-active strata-snapshotter)"
    is who_connects_starts_the_service active "$(ready)"
    is it_serves_what_the_socket_is strata "$(cat /proc/$(server)/comm)"
    before=$(server)
    kill -KILL "$before"
    sleep 2
    is killed_it_is_started_again "active yes" "$(ready) $([ "$(server)" != "$before" ] && echo yes)"
    systemctl stop strata-snapshotter.service 2>/dev/null
    is stopped_it_ends_well "inactive success" \
        "$(systemctl is-active strata-snapshotter) $(systemctl show -p Result --value strata-snapshotter)"
    is and_who_connects_starts_it_again active "$(ready)"
    # Overlays that strata serves have processes of their own, which the unit leaves alone.
    unit=/etc/systemd/system/strata-snapshotter.service.d
    mkdir $unit
    printf '[Service]\nExecStart=\nExecStart=/usr/bin/env strata serve snapshotter --driver fuse\n' >$unit/fuse.conf
    systemctl daemon-reload
    systemctl restart strata-snapshotter.service
    ask() { /vm/xtask ask $socket "$@"; }
    ask prepare work >/dev/null
    ask commit base work
    place=$(ask prepare run base)
    echo written >"$place/file"
    # By its last word; not as a word of who looks.
    echo "$place" >/vm/place
    serves() { grep -lzxF -f /vm/place /proc/[0-9]*/cmdline 2>/dev/null | tr -dc '0-9\n'; }
    before=$(serves)
    is each_is_served_by_a_process strata-fuse "$(cat "/proc/$before/comm")"
    systemctl restart strata-snapshotter.service
    is they_outlive_a_restart "written $before $place" "$(cat "$place/file") $(serves) $(ask mounts run)"
    systemctl stop strata-snapshotter.socket strata-snapshotter.service
    is and_a_stop "written $before" "$(cat "$place/file") $(serves)"
    systemctl start strata-snapshotter.socket
    ask remove run
    is and_go_with_their_snapshots "no " "$([ -e "$place" ] && echo yes || echo no) $(serves)"
    ask remove base
    ask cleanup
    rm -r $unit
    systemctl daemon-reload
    systemctl stop strata-snapshotter.socket strata-snapshotter.service
    is the_socket_goes_with_its_unit no "$([ -e $socket ] && echo yes || echo no)"
    /vm/oci root
    # An ordinary user, whose systemd is started as a login would start it.
    echo "user:x:1000:1000::/home/user:/bin/sh" >>/etc/passwd
    echo "user:x:1000:" >>/etc/group
    echo "user:*:20000:0:99999:7:::" >>/etc/shadow
    mkdir -m 777 /vm/user
    systemctl start user@1000.service || journalctl -q -b -n 30
    setpriv --reuid 1000 --regid 1000 --clear-groups env XDG_RUNTIME_DIR=/run/user/1000 systemctl --user start oci
    is the_users_part_ends 0 $?
    cat /vm/user/said
    echo killed >/vm/stage
    ;;
killed)
    is no_unit_failed "" "$(systemctl --failed --no-legend)"
    is always_is_started "running 0" "$(how always)"
    is unless_stopped_is_started "running 0" "$(how unless-stopped)"
    is who_was_stopped_is_not "exited 7" "$(how stopped)"
    is its_own_signal_ended_it "exited 7" "$(how no)"
    is who_did_not_heed_it_was_killed "exited 137" "$(how deaf)"
    is who_was_to_go_is_gone "" "$(strata ps -aq --filter name=gone)"
    before=$(strata inspect -f '{{.State.Pid}}' always)
    systemctl restart strata
    is restarting_the_unit_starts_them_again "running 0" "$(how always)"
    is and_ends_them_before no "$([ -e "/proc/$before" ] && echo yes || echo no)"
    strata start no on-failure
    echo ended >/vm/stage
    ;;
ended)
    is what_lost_its_power_has_exited "exited 255" "$(how no)"
    is on_failure_is_started "running 0" "$(how on-failure)"
    is always_is_started "running 0" "$(how always)"
    systemctl stop strata
    is stopping_the_unit_ends_them "" "$(strata ps -q)"
    strata fsck
    is nothing_is_wrong 0 $?
    ;;
esac
echo "@end systemd::$stage 0"
sync
case $stage in
told) kill -39 1 ;; # SIGRTMIN+5, systemd's reboot.target: systemctl would want a bus
killed) echo b >/proc/sysrq-trigger ;;
ended)
    echo "@off"
    echo o >/proc/sysrq-trigger
    ;;
esac
