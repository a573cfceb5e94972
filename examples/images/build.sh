#!/usr/bin/env bash
# Real images without a registry: busybox and nginx from Debian's (or Ubuntu's) packages.
#
#   examples/images/build.sh [busybox] [nginx]      both when none is named
#
# Packages are downloaded and unpacked in a scratch folder; nothing is installed on the host. What an
# image needs (a binary, the libraries it links to, its files) is packed and given to `docker import`.
# DOCKER_HOST is honoured. IMAGE_CACHE=DIR keeps the packed images there and uses them the next time.
set -euo pipefail

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# unpack FOLDER PACKAGE...: the packages and all that they depend on, unpacked into FOLDER.
unpack() {
    local root=$1 cache=$scratch/apt
    shift
    mkdir -p "$root" "$cache/archives/partial"
    : >"$scratch/status" # as if nothing were installed, so that the whole closure is fetched
    chown -R _apt "$cache" 2>/dev/null || true
    apt-get -qq -o Dir::State::status="$scratch/status" -o Dir::Cache="$cache" \
        -o APT::Install-Recommends=false -o APT::Sandbox::User=root \
        install --yes --download-only "$@" >/dev/null
    # Merged-/usr first: packages put files in /lib or /usr/lib, the images know only one of them.
    mkdir -p "$root"/usr/{bin,sbin,lib,lib64}
    ln -sfn usr/bin "$root/bin"; ln -sfn usr/sbin "$root/sbin"
    ln -sfn usr/lib "$root/lib"; ln -sfn usr/lib64 "$root/lib64"
    local deb
    for deb in "$cache"/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --keep-directory-symlink
    done
    rm -f "$cache"/archives/*.deb
}

# libraries ROOT BINARY: paths below ROOT of the loader and the libraries that BINARY links to.
libraries() {
    local root=$1 loader libdir
    loader=$(find "$root/usr" -name 'ld-linux*.so.*' -type f | head -n 1)
    libdir=$root/usr/lib/$(uname -m)-linux-gnu
    "$loader" --library-path "$libdir" --list "$2" | grep -o "$root[^ ]*"
    find "$root/usr" -name 'ld-linux*.so.*' # the loader and the links to it
}

# copy ROOT FILE IMAGE: FILE to the same place below IMAGE; a library link becomes the library.
copy() {
    local to=$3${2#"$1"}
    mkdir -p "$(dirname "$to")"
    case $2 in */ld-linux*) cp -a "$2" "$to" ;; *) cp -L "$2" "$to" ;; esac
}

# skeleton FOLDER: users, /tmp, busybox under all its names (a shell for exec and probes).
skeleton() {
    mkdir -p "$1"/{bin,sbin,etc,tmp,root,proc,sys,dev,run,var/log,var/www,usr/bin,usr/sbin}
    chmod 1777 "$1/tmp"
    printf 'root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$1/etc/passwd"
    printf 'root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n' >"$1/etc/group"
    local packages=$scratch/busybox-package name
    [ -d "$packages" ] || unpack "$packages" busybox-static
    cp "$packages/bin/busybox" "$1/bin/busybox"
    for name in $("$1/bin/busybox" --list); do
        [ "$name" = busybox ] || ln -sf busybox "$1/bin/$name"
    done
}

pack_busybox() {
    local image=$scratch/busybox
    skeleton "$image"
    mkdir -p "$image/home" && tar -C "$image" --numeric-owner --owner=0 --group=0 -cf "$1" .
}

pack_nginx() {
    local image=$scratch/nginx packages=$scratch/nginx-package file
    skeleton "$image"
    unpack "$packages" nginx-light
    cp "$packages/usr/sbin/nginx" "$image/usr/sbin/nginx"
    for file in $(libraries "$packages" "$packages/usr/sbin/nginx"); do
        copy "$packages" "$file" "$image"
    done
    ln -s usr/lib "$image/lib" && ln -s usr/lib64 "$image/lib64"
    # The name service libraries that the loader opens at run time.
    for file in "$packages"/usr/lib/*-linux-gnu/libnss_files.so.*; do
        [ -e "$file" ] && copy "$packages" "$file" "$image"
    done
    mkdir -p "$image/etc/nginx" "$image/var/lib/nginx" "$image/var/log/nginx" "$image/usr/share/nginx/html"
    cp "$packages/etc/nginx/mime.types" "$image/etc/nginx/"
    cp "$packages"/usr/share/nginx/html/index.html "$image/usr/share/nginx/html/index.html"
    cp "$(dirname "$0")/nginx.conf" "$image/etc/nginx/nginx.conf"
    tar -C "$image" --numeric-owner --owner=0 --group=0 -cf "$1" .
}

build() {
    local name=$1 archive
    shift
    archive=${IMAGE_CACHE:-$scratch}/$name.tar
    if [ ! -s "$archive" ]; then
        mkdir -p "$(dirname "$archive")"
        "pack_$name" "$archive.part"
        mv "$archive.part" "$archive"
    fi
    local change changes=()
    for change in "$@"; do changes+=(--change "$change"); done
    docker import "${changes[@]}" "$archive" "$name:latest" >/dev/null
    echo "$name:latest"
}

for name in ${@:-busybox nginx}; do
    case $name in
        busybox) build busybox 'CMD ["sh"]' 'ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin' ;;
        nginx) build nginx 'CMD ["nginx", "-g", "daemon off;"]' 'EXPOSE 80' \
            'ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin' ;;
        *) echo "build.sh: no image called $name: busybox or nginx" >&2; exit 2 ;;
    esac
done
