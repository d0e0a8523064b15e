#!/bin/sh
# `strata oci --systemd-cgroup` on a machine with systemd: "root" by the machine's, "user" by the user's own, called from a user
# namespace as engines of ordinary users call it.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
who=$1
case $who in
root)
    systemctl="systemctl"
    bundle=/vm/bundle
    slice=machine.slice
    above=
    ;;
user)
    exec >/vm/user/said 2>&1
    [ -n "$2" ] || exec unshare --user --mount --map-root-user /vm/oci user inside
    systemctl="systemctl --user"
    bundle=/vm/user/bundle
    slice=strata-test.slice
    above=/user.slice/user-1000.slice/user@1000.service/strata.slice
    ;;
esac

# NAME, what is wanted, what is so
is() {
    if [ "$2" = "$3" ]; then
        echo "test ${who}_$1 ... ok"
    else
        echo "$1: wanted \"$2\", and there is \"$3\""
        echo "test ${who}_$1 ... FAILED"
    fi
}
oci() { strata-oci --systemd-cgroup "$@"; }
show() { $systemctl show --property "$1" --value strata-one.scope; }

mkdir -p $bundle/rootfs
tar -xf /vm/busybox.tar -C $bundle/rootfs --no-same-owner
mkdir -p $bundle/rootfs/proc
cat >$bundle/config.json <<END
{
    "ociVersion": "1.2.0",
    "root": {"path": "rootfs"},
    "process": {"user": {"uid": 0, "gid": 0}, "args": ["sleep", "1000"], "env": ["PATH=/bin"], "cwd": "/"},
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
    "linux": {
        "cgroupsPath": "$slice:strata:one",
        "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}],
        "resources": {
            "devices": [{"allow": false, "access": "rwm"}],
            "memory": {"limit": 67108864},
            "pids": {"limit": 20}
        }
    }
}
END
place=$above/$slice/strata-one.scope
dir=/sys/fs/cgroup$place
oci run --detach --bundle $bundle one >/dev/null
is a_container_runs_in_a_scope 0 $?
pid=$(oci state one | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')
is it_is_where_it_was_asked_for "0::$place" "$(cat /proc/$pid/cgroup)"
is nobody_else_is_there $pid "$(cat $dir/cgroup.procs)"
is systemd_knows_it "$place" "$(show ControlGroup)"
is the_limits_hold "67108864 20" "$(cat $dir/memory.max) $(cat $dir/pids.max)"
is systemd_knows_the_limits "67108864 20" "$(show MemoryMax) $(show TasksMax)"
oci update --memory 33554432 one
is other_limits_hold "33554432 20" "$(cat $dir/memory.max) $(cat $dir/pids.max)"
$systemctl daemon-reload
is and_stay_when_systemd_begins_anew "33554432 20" "$(cat $dir/memory.max) $(cat $dir/pids.max)"
is one_more_is_born_there "0::/" "$(oci exec one cat /proc/self/cgroup)"
# As an init system in it would: its own cgroup gives controllers away, and holds no process any more.
mkdir $dir/init && echo "$pid" >$dir/init/cgroup.procs && echo +memory >$dir/cgroup.subtree_control
is one_more_is_born_beside_the_first "0::/init" "$(oci exec one cat /proc/self/cgroup)"
oci pause one
is it_stands_still paused "$(oci state one | sed -n 's/.*"status": *"\([a-z]*\)".*/\1/p')"
oci resume one
is the_scope_is_taken 1 "$(oci create --bundle $bundle two 2>&1 >/dev/null </dev/null | grep -c strata-one.scope)"
is of_one_that_failed_nothing_stays one "$(oci list -q)"
oci delete --force one
is it_ends_with_the_container "not-found no" "$(show LoadState) $([ -e $dir ] && echo yes || echo no)"
sed -i 's/"cgroupsPath": .*/"cgroupsPath": "",/' $bundle/config.json
oci create --bundle $bundle three </dev/null >/dev/null
is without_a_word_it_has_one_too loaded "$($systemctl show --property LoadState --value strata-three.scope)"
oci delete three
is and_none_when_it_is_gone not-found "$($systemctl show --property LoadState --value strata-three.scope)"
