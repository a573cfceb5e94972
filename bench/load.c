/* Load for the proxy bench: servers and clients that cost little beside what they measure.
 *
 *   load echo PORT                         answer every byte with itself
 *   load source PORT                       send without end to whoever connects
 *   load requests HOST PORT CONNS SECONDS  64-byte questions on kept connections; prints a second
 *   load connects HOST PORT CONNS SECONDS  a connection for every question; prints a second
 *   load bulk HOST PORT CONNS SECONDS      read without end; prints Gbit/s of all together
 *   load paced HOST PORT RATE SECONDS      a question when it is due, so many a second, on one
 *                                          connection; prints the median and the 99th percentile
 *                                          of the microseconds from due to answered
 *   load held HOST PORT CONNS              connections that asked once and are silent since; says
 *                                          "held" and ends with its standard input
 * The last number printed by the first five is that of connections that broke.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGE = 64, EVENTS = 256 };
static char buffer[1 << 20];

static void die(const char *what) { perror(what); exit(1); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static struct sockaddr_in address(const char *host, int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, host, &a.sin_addr);
    return a;
}

static void watch(int epoll, int op, int fd, unsigned events) {
    struct epoll_event e = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll, op, fd, &e)) die("epoll_ctl");
}

static void serve(int port, int endless) {
    int one = 1, epoll = epoll_create1(0), door = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in a = address("0.0.0.0", port);
    setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(door, (struct sockaddr *)&a, sizeof a) || listen(door, 4096)) die("listen");
    watch(epoll, EPOLL_CTL_ADD, door, EPOLLIN);
    for (;;) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == door) {
                int client = accept4(door, NULL, NULL, SOCK_NONBLOCK);
                if (client < 0) continue;
                setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                watch(epoll, EPOLL_CTL_ADD, client, endless ? EPOLLOUT : EPOLLIN);
                continue;
            }
            ssize_t size = endless ? (ssize_t)sizeof buffer : read(fd, buffer, sizeof buffer);
            if (size > 0) size = write(fd, buffer, size);
            if (size == 0 || (size < 0 && errno != EAGAIN)) close(fd);
        }
    }
}

static int dial(struct sockaddr_in *a, int flags) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | flags, 0);
    if (fd < 0) die("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)a, sizeof *a) && errno != EINPROGRESS) die("connect");
    return fd;
}

static void ask(int fd) {
    if (write(fd, buffer, MESSAGE) != MESSAGE) die("write");
}

static void rate(struct sockaddr_in a, int conns, double seconds, int reconnect) {
    int epoll = epoll_create1(0);
    long done = 0, broken = 0;
    for (int i = 0; i < conns; i++) {
        int fd = dial(&a, 0);
        ask(fd);
        watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
    }
    double start = now(), end = start + seconds;
    while (now() < end) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(epoll, events, EVENTS, 100);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (events[i].events == EPOLLOUT) { /* connected */
                ask(fd);
                watch(epoll, EPOLL_CTL_MOD, fd, EPOLLIN);
                continue;
            }
            ssize_t size = read(fd, buffer, MESSAGE);
            if (size == MESSAGE) done++; else broken++;
            if (!reconnect && size == MESSAGE) { ask(fd); continue; }
            struct linger hard = {1, 0}; /* no TIME_WAIT: ports must last for the whole run */
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
            close(fd);
            watch(epoll, EPOLL_CTL_ADD, dial(&a, SOCK_NONBLOCK), EPOLLOUT);
        }
    }
    printf("%.1f %ld\n", done / (now() - start), broken);
}

static void bulk(struct sockaddr_in a, int conns, double seconds) {
    int epoll = epoll_create1(0);
    for (int i = 0; i < conns; i++) watch(epoll, EPOLL_CTL_ADD, dial(&a, 0), EPOLLIN);
    double start = now(), end = start + seconds, bytes = 0;
    while (now() < end) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(epoll, events, EVENTS, 100);
        for (int i = 0; i < count; i++) {
            ssize_t size = recv(events[i].data.fd, buffer, sizeof buffer, MSG_DONTWAIT);
            if (size <= 0) die("read");
            bytes += size;
        }
    }
    printf("%.3f 0\n", bytes * 8e-9 / (now() - start));
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void paced(struct sockaddr_in a, double rate, double seconds) {
    int fd = dial(&a, 0), total = rate * seconds;
    prctl(PR_SET_TIMERSLACK, 1); /* sleepers wake when they asked to */
    double *took = malloc(total * sizeof *took), start = now() + 0.01;
    for (int i = 0; i < total; i++) {
        double due = start + i / rate, wait = due - now();
        struct timespec t = {.tv_nsec = wait * 1e9};
        if (wait > 0) nanosleep(&t, NULL);
        ask(fd);
        if (recv(fd, buffer, MESSAGE, MSG_WAITALL) != MESSAGE) die("read");
        took[i] = (now() - due) * 1e6;
    }
    qsort(took, total, sizeof *took, compare);
    printf("%.1f %.1f 0\n", took[total / 2], took[total * 99 / 100]);
}

static void held(struct sockaddr_in a, int conns) {
    for (int i = 0; i < conns; i++) {
        int fd = dial(&a, 0);
        ask(fd);
        if (recv(fd, buffer, MESSAGE, MSG_WAITALL) != MESSAGE) die("read");
    }
    puts("held");
    fflush(stdout);
    while (read(0, buffer, sizeof buffer) > 0) {}
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    const char *mode = argc > 2 ? argv[1] : "";
    if (!strcmp(mode, "echo") || !strcmp(mode, "source"))
        serve(atoi(argv[2]), !strcmp(mode, "source"));
    if (argc < 5) return fprintf(stderr, "see the head of load.c\n"), 2;
    struct sockaddr_in a = address(argv[2], atoi(argv[3]));
    if (!strcmp(mode, "held")) held(a, atoi(argv[4]));
    else if (argc < 6) return fprintf(stderr, "see the head of load.c\n"), 2;
    else if (!strcmp(mode, "bulk")) bulk(a, atoi(argv[4]), atof(argv[5]));
    else if (!strcmp(mode, "paced")) paced(a, atof(argv[4]), atof(argv[5]));
    else rate(a, atoi(argv[4]), atof(argv[5]), !strcmp(mode, "connects"));
    return 0;
}
