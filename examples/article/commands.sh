#!/usr/bin/env bash
# Every command of the article, in its order, on the cluster that `make up` made.
#
#   examples/article/commands.sh [http://ADDRESS:8080]
#
# KUBECTL is the client (default: the bundled `k8slite ctl`). Each command is printed before what it
# prints. The image `nginx` must be on the node (examples/images/build.sh) or in a registry.
set -euo pipefail
cd "$(dirname "$0")"

server=${1:-http://192.168.0.10:8080}
read -ra kubectl <<<"${KUBECTL:-k8slite ctl}"

step() {
    printf '\n%% %s\n' "$*"
    "$@"
}

# The article says: if some pods are still pending, wait a little.
until_running() {
    local tries=60
    until [ "$("${kubectl[@]}" get pods -o 'jsonpath={range .items[*]}{.status.phase}{"\n"}{end}' \
        -s "$server" | grep -c '^Running$')" -eq "$1" ]; do
        [ $((tries -= 1)) -gt 0 ] || { "${kubectl[@]}" get pods -s "$server" >&2; exit 1; }
        sleep 0.2
    done
}

portal_ip() { "${kubectl[@]}" get service "$1" -o 'jsonpath={.spec.clusterIP}' -s "$server"; }

# A new service answers as soon as its endpoints have reached the proxy.
welcome() {
    local page tries=100
    printf '\n%% curl %s\n' "$1"
    until page=$(curl -fsS --max-time 5 "$1" 2>&1); do
        [ $((tries -= 1)) -gt 0 ] || { echo "$page" >&2; exit 1; }
        sleep 0.1
    done
    echo "$page"
}

step "${kubectl[@]}" get services,minions -s "$server"

# Запуск сервиса вручную
step "${kubectl[@]}" run-container nginx --port=80 --port=443 --image=nginx --replicas=6 -s "$server"
until_running 6
step "${kubectl[@]}" get pods,rc -s "$server"
step "${kubectl[@]}" expose rc nginx --port=80 --target-port=80 --service-name=nginx-http -s "$server"
step "${kubectl[@]}" expose rc nginx --port=443 --target-port=443 --service-name=nginx-https -s "$server"
step "${kubectl[@]}" get rc,services -s "$server"
welcome "http://$(portal_ip nginx-http)"

# Запуск сервиса с помощью конфигов
step "${kubectl[@]}" delete services nginx-http nginx-https -s "$server"
step "${kubectl[@]}" stop rc nginx -s "$server"
step "${kubectl[@]}" create -f ./nginx_rc.yaml -s "$server"
until_running 6
step "${kubectl[@]}" get pods,rc -s "$server"
step "${kubectl[@]}" create -f ./nginx_service.yaml -s "$server"
step "${kubectl[@]}" get rc,services -s "$server"
welcome "http://$(portal_ip nginx)"
welcome "http://12.0.0.5"
