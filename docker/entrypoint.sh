#!/usr/bin/env bash
# The image's program, under tini: decides what to run, and as whom.
#
#   MODE=pod          sdstream serve, with the arguments given
#   MODE=serverless   handler.py, RunPod's queue worker
#   no MODE           serverless where RunPod's queue hands out jobs, else pod (MODE_TO_RUN is another name for it)
#   a command         that command instead: docker run IMAGE sdstream doctor
#
#   RUN_AS=auto       the user sdstream where it can write the data directory, else root, and says so
#   RUN_AS=root       root
set -euo pipefail

home=$(dirname "$(dirname "$(readlink -f "$0")")")
user=${IMAGE_USER:-sdstream}

say() { printf 'entrypoint: %s\n' "$*" >&2; }

choose_mode() {
    local mode=${MODE:-${MODE_TO_RUN:-}}
    if [ -z "$mode" ]; then
        # The SDK's own test for a queue.
        if [ -n "${RUNPOD_WEBHOOK_GET_JOB:-}" ]; then mode=serverless; else mode=pod; fi
    fi
    printf '%s\n' "$mode"
}

# For shells that come by SSH, which see nothing of the first process's environment: where the programs, the data and the
# server are, and RunPod's variables of addresses. No key is among them.
write_shell_profile() {
    local name
    for name in $(compgen -e); do
        if [[ $name =~ ^RUNPOD_(POD_ID|ENDPOINT_ID|PUBLIC_IP|DC_ID|VOLUME_ID|TCP_PORT_[0-9]+)$ ]] ||
            [[ $name =~ ^(PATH|SDSTREAM_(DATA_DIR|HOST|PORT|MEDIA_BACKEND|WEBRTC_MODE))$ ]]; then
            printf 'export %s=%q\n' "$name" "${!name}"
        fi
    done >"$1"
}

as_user() { setpriv --reuid "$user" --regid "$user" --init-groups env HOME="/home/$user" "$@"; }

# A network volume belongs to root. Its sdstream/ is given to the user, with each engine that root baked in a shell of a pod
# and the user will put aside; not what is deeper, which can be read anyway. The mode is that of the server.
hand_over_data() {
    local place
    if [ -n "${SDSTREAM_DATA_DIR:-}" ]; then
        place=$SDSTREAM_DATA_DIR
    elif [ -w /runpod-volume ]; then
        place=/runpod-volume/sdstream
    elif [ -w /workspace ]; then
        place=/workspace/sdstream
    else
        return 0
    fi
    { [ -d "$place" ] || install -d -m 700 "$place"; } &&
        find "$place/" -maxdepth 3 ! -user "$user" -exec chown -h "$user:$user" {} +
}

least_free_port() { cat /proc/sys/net/ipv4/ip_unprivileged_port_start 2>/dev/null || echo 1024; }

# RunPod's load balancer asks on port 80.
needs_root_for_ports() {
    local port
    for port in "${SDSTREAM_PORT:-${PORT:-8080}}" "${SDSTREAM_HEALTH_PORT:-${PORT_HEALTH:-8080}}"; do
        if [[ $port =~ ^[0-9]+$ ]] && [ "$port" -lt "$(least_free_port)" ]; then return 0; fi
    done
    return 1
}

# prepare_data RUNNER...: make the data directory as the server will, and print it; fails where it cannot be written.
prepare_data() {
    "$@" python -c '
from sdstream.directories import choose_data_directory
from sdstream.settings import load_settings
print(choose_data_directory(load_settings()).prepare())'
}

# copy_engines DATA RUNNER...: engines that are baked into the image, to where the server looks for them. An engine is
# engines/BASE/PLACE; of one base there may be several, for other cards.
copy_engines() {
    local data=$1 entry place draft
    shift
    for entry in "$home"/engines/*/*/; do
        entry=${entry%/}
        place=${entry#"$home"/engines/}
        if [ -f "$entry/manifest.json" ] && [ ! -e "$data/engines/$place" ]; then
            # By another name first: whoever looks meanwhile sees a whole engine or none.
            draft=$data/engines/.drafts/image-$HOSTNAME-$$-$RANDOM
            if ! { "$@" mkdir -p "$data/engines/.drafts" "$data/engines/${place%/*}" &&
                "$@" cp -R "$entry" "$draft" && "$@" mv -T "$draft" "$data/engines/$place"; }; then
                "$@" rm -rf "$draft"
                [ -e "$data/engines/$place" ] || return 1 # else another container was faster
            fi
        fi
    done
}

# Models that RunPod has cached for the endpoint lie in the hub's layout on the volume.
find_cached_models() {
    if [ -z "${HF_HOME:-}${HF_HUB_CACHE:-}" ] && [ -d /runpod-volume/huggingface-cache/hub ]; then
        export HF_HUB_CACHE=/runpod-volume/huggingface-cache/hub
    fi
}

mode=$(choose_mode)
serves=yes
if [ $# -gt 0 ] && [[ $1 != -* ]]; then
    command=("$@")
    serves=
elif [ "$mode" = pod ]; then
    command=(sdstream serve "$@")
elif [ "$mode" = serverless ]; then
    cd "$home"
    command=(python -u handler.py "$@")
else
    say "MODE is '$mode'; it must be pod or serverless"
    exit 2
fi

runner=(env)
if [ "$(id -u)" -eq 0 ]; then
    profile=${SHELL_PROFILE:-/etc/profile.d/runpod.sh}
    write_shell_profile "$profile" || say "could not write $profile"
    case ${RUN_AS:-auto} in
    root) ;;
    auto)
        if needs_root_for_ports; then
            say "a port below $(least_free_port) is wanted, so root runs it"
        elif hand_over_data && prepare_data as_user >/dev/null 2>&1 || ! prepare_data env >/dev/null 2>&1; then
            # Where root cannot either, such as by a wrong setting, the program says why.
            runner=(setpriv --reuid "$user" --regid "$user" --init-groups env "HOME=/home/$user")
        else
            say "the user $user cannot write the data directory, so root runs it"
        fi
        ;;
    *)
        say "RUN_AS is '$RUN_AS'; it must be auto or root"
        exit 2
        ;;
    esac
fi
find_cached_models
if [ "$serves" ] && [ -d "$home/engines" ] && data=$(prepare_data "${runner[@]}" 2>/dev/null); then
    copy_engines "$data" "${runner[@]}" || say "could not copy the engines of the image to $data"
fi
exec "${runner[@]}" "${command[@]}"
