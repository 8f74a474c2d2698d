# Outlives the test however that ends, and removes what namespaces cannot: the lab's cgroups and its directory.
# $1: the machine's cgroup v2 mount, $2: the text of world.sh. Stdin is a pipe which only the test holds open.
set -eu

dir=$(mktemp -d /tmp/f2b-lab-XXXXXX)
cgroup=$1/$(basename "$dir")
trap 'rm -rf "$dir"; find "$cgroup" -depth -type d -exec rmdir {} +' EXIT

printf %s "$2" >"$dir/world.sh"
mkdir "$cgroup"
(
    echo 0 >"$cgroup/cgroup.procs"
    exec unshare --mount --net --pid --cgroup --fork sh "$dir/world.sh" "$dir" "$cgroup"
)
