/* Load for the UDP bench: an echo server and clients that keep a bounded number of datagrams in flight.
 *
 *   udp_load echo PORT                            answer every datagram with itself
 *   udp_load ask HOST PORT CLIENTS EACH SECONDS   CLIENTS sockets with EACH datagrams of 64 bytes in
 *                                                 flight; prints answers a second, datagrams lost, sent
 *
 * A datagram is lost when its answer did not come within a tenth of a second; another takes its place.
 * Answers that come later than that count for nothing.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGE = 64, BATCH = 64, EVENTS = 256, MOST_CLIENTS = 1024, MOST_EACH = 256 };
static const double LOST_AFTER = 0.1;

struct client {
    int fd;
    uint64_t next;                /* the number of the next datagram */
    uint64_t number[MOST_EACH];   /* by place: what is in flight there */
    double sent[MOST_EACH];       /* and since when */
};

static struct client clients[MOST_CLIENTS];
static long answered, lost, sent;

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

/* Datagrams of up to 2 kB, read and written by the batch. */
struct batch {
    struct mmsghdr heads[BATCH];
    struct iovec vectors[BATCH];
    struct sockaddr_in names[BATCH];
    char data[BATCH][2048];
};

static int take(int fd, struct batch *b) {
    for (int i = 0; i < BATCH; i++) {
        b->vectors[i] = (struct iovec){b->data[i], sizeof b->data[i]};
        b->heads[i].msg_hdr = (struct msghdr){.msg_name = &b->names[i], .msg_namelen = sizeof b->names[i],
                                              .msg_iov = &b->vectors[i], .msg_iovlen = 1};
    }
    return recvmmsg(fd, b->heads, BATCH, MSG_DONTWAIT, NULL);
}

static void echo(int port) {
    static struct batch b;
    int size = 8 << 20, fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in a = address("0.0.0.0", port);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    if (bind(fd, (struct sockaddr *)&a, sizeof a)) die("bind");
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    for (;;) {
        poll(&readable, 1, -1);
        int count = take(fd, &b);
        for (int i = 0; i < count; i++) b.vectors[i].iov_len = b.heads[i].msg_len;
        for (int done = 0; done < count;) {
            int more = sendmmsg(fd, b.heads + done, count - done, 0);
            done += more > 0 ? more : 1;
        }
    }
}

static void ask(struct client *c, int place, double at) {
    char text[MESSAGE] = {0};
    uint64_t head[2] = {c->next++, (uint64_t)place};
    memcpy(text, head, sizeof head);
    c->number[place] = head[0];
    c->sent[place] = at;
    sent++;
    if (send(c->fd, text, sizeof text, 0) < 0 && errno != ECONNREFUSED && errno != EAGAIN) die("send");
}

static void hear(struct client *c, double at) {
    static struct batch b;
    int count = take(c->fd, &b);
    for (int i = 0; i < count; i++) {
        uint64_t head[2];
        if (b.heads[i].msg_len != MESSAGE) continue;
        memcpy(head, b.data[i], sizeof head);
        if (head[1] >= MOST_EACH || c->number[head[1]] != head[0]) continue; /* too late, or twice */
        answered++;
        ask(c, (int)head[1], at);
    }
}

static void load(struct sockaddr_in a, int count, int each, double seconds) {
    int epoll = epoll_create1(0);
    double start = now(), looked = start, at = start;
    for (int i = 0; i < count; i++) {
        struct client *c = &clients[i];
        c->next = 1;
        c->fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&a, sizeof a)) die("connect");
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &e)) die("epoll_ctl");
        for (int place = 0; place < each; place++) ask(c, place, at);
    }
    while (at < start + seconds) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(epoll, events, EVENTS, 10);
        at = now();
        for (int i = 0; i < ready; i++) hear(events[i].data.ptr, at);
        if (at - looked < LOST_AFTER / 4) continue;
        looked = at;
        for (int i = 0; i < count; i++)
            for (int place = 0; place < each; place++)
                if (at - clients[i].sent[place] > LOST_AFTER) { lost++; ask(&clients[i], place, at); }
    }
    printf("%.1f %ld %ld\n", answered / (at - start), lost, sent);
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "echo")) echo(atoi(argv[2]));
    if (argc != 7 || strcmp(argv[1], "ask")) return fprintf(stderr, "see the head of udp_load.c\n"), 2;
    int count = atoi(argv[4]), each = atoi(argv[5]);
    if (count < 1 || count > MOST_CLIENTS || each < 1 || each > MOST_EACH)
        return fprintf(stderr, "1 to %d clients with 1 to %d each\n", MOST_CLIENTS, MOST_EACH), 2;
    load(address(argv[2], atoi(argv[3])), count, each, atof(argv[6]));
    return 0;
}
