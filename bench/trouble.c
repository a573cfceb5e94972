/* Bad company for the bench of floods. All of it is bounded, and for namespaces made by the bench only.
 *
 *   trouble hold HOST PORT COUNT SECONDS   connections that say nothing
 *   trouble slow HOST PORT COUNT SECONDS   connections that read a byte now and then
 *   trouble vanish HOST PORT COUNT SECONDS connections whose client is gone without a word, once it was
 *                                          sent something; for a host that sends no resets
 *   trouble tear HOST PORT RATE SECONDS    connections that begin a question and are reset
 *   trouble dial HOST PORT RATE SECONDS    connections that are reset at once
 *   trouble syn HOST PORT RATE SECONDS     first packets of connections, from senders of 10.0.0.0/8
 *   trouble udp HOST PORT RATE SECONDS     datagrams from senders of 10.0.0.0/8
 *
 * RATE is a second. Says "ready" when it is at work, and at the end how many there were.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 15000, PACKETS = 2000000 };

static void die(const char *what) { perror(what); exit(1); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void rest(double seconds) {
    struct timespec t = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
    if (seconds > 0) nanosleep(&t, NULL);
}

/* A connection that is there within SECONDS, or -1. */
static int dial(struct sockaddr_in *a, int room, double seconds) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0) die("socket");
    if (room) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    if (!connect(fd, (struct sockaddr *)a, sizeof *a)) return fd;
    struct pollfd writable = {.fd = fd, .events = POLLOUT};
    int error = errno;
    socklen_t size = sizeof error;
    if (error == EINPROGRESS && poll(&writable, 1, (int)(seconds * 1000)) == 1 &&
        !getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) && !error)
        return fd;
    close(fd);
    return -1;
}

static void vanish(int fd) {
    char byte;
    int repair = 1;
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    poll(&readable, 1, 10000);
    if (read(fd, &byte, 1) != 1) die("read");
    if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &repair, sizeof repair)) die("TCP_REPAIR");
    close(fd); /* which says nothing in this state */
}

static void stay(struct sockaddr_in *a, long count, double seconds, int slow, int gone) {
    static int fds[MOST];
    long open = 0;
    if (count > MOST) count = MOST;
    for (long i = 0; i < count; i++)
        if ((fds[open] = dial(a, slow ? 4096 : 0, 2)) >= 0) open++;
    for (long i = 0; gone && i < open; i++) vanish(fds[i]);
    printf("ready\n");
    fflush(stdout);
    if (gone) {
        rest(seconds);
        printf("%ld\n", open);
        return;
    }
    for (double end = now() + seconds; now() < end; rest(0.1))
        for (long i = 0; slow && i < open; i++) {
            char byte;
            if (read(fds[i], &byte, 1) == 0) die("closed");
        }
    long alive = 0;
    for (long i = 0; i < open; i++) {
        char byte;
        alive += slow || (recv(fds[i], &byte, 1, MSG_PEEK) < 0 && errno == EAGAIN);
    }
    printf("%ld\n", alive);
}

static void pace(double start, long done, double rate) {
    if (done % 32 == 0) rest(start + done / rate - now());
}

static void come_and_go(struct sockaddr_in *a, double rate, double seconds, int speak) {
    struct linger hard = {1, 0};
    double start = now();
    long done = 0, missed = 0;
    for (; now() < start + seconds; pace(start, done + missed, rate)) {
        int fd = dial(a, 0, 0.05);
        if (fd < 0) { missed++; continue; }
        if (speak && send(fd, "GET / HTTP", 10, MSG_NOSIGNAL) < 0 && errno != ECONNRESET && errno != EPIPE) die("send");
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        close(fd);
        done++;
    }
    printf("%ld\n", done);
}

static uint16_t sum(const void *data, size_t size, uint32_t with) {
    const uint8_t *bytes = data;
    for (size_t i = 0; i + 1 < size; i += 2) with += bytes[i] << 8 | bytes[i + 1];
    while (with >> 16) with = (with & 0xffff) + (with >> 16);
    return htons(~with & 0xffff);
}

static void invent(struct sockaddr_in *a, double rate, double seconds, int syn) {
    int raw = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
    if (raw < 0) die("socket");
    double start = now();
    long done = 0;
    for (; now() < start + seconds && done < PACKETS; pace(start, done, rate)) {
        uint8_t packet[40] = {0x45, 0, 0, (uint8_t)(syn ? 40 : 30), 0, 0, 0, 0, 64, (uint8_t)(syn ? IPPROTO_TCP : IPPROTO_UDP)};
        uint32_t source = htonl((10u << 24) + (uint32_t)(done * 7919 % (1 << 24)));
        uint16_t port = htons((uint16_t)(1024 + done % 60000));
        memcpy(packet + 12, &source, 4);
        memcpy(packet + 16, &a->sin_addr, 4);
        memcpy(packet + 20, &port, 2);
        memcpy(packet + 22, &a->sin_port, 2);
        if (syn) {
            packet[32] = 0x50, packet[33] = 2, packet[34] = 0xff; /* header of 20 bytes, SYN, window */
            uint16_t check = sum(packet + 12, 28, IPPROTO_TCP + 20);
            memcpy(packet + 36, &check, 2);
        } else {
            packet[25] = 10; /* UDP's length; it may go without a checksum */
        }
        sendto(raw, packet, syn ? 40 : 30, 0, (struct sockaddr *)a, sizeof *a);
        done++;
    }
    printf("%ld\n", done);
}

int main(int argc, char **argv) {
    if (argc != 6) return fprintf(stderr, "see the head of trouble.c\n"), 2;
    const char *mode = argv[1];
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[3]))};
    double amount = atof(argv[4]), seconds = atof(argv[5]);
    if (inet_pton(AF_INET, argv[2], &a.sin_addr) != 1 || amount < 1 || seconds > 600) return 2;
    int slow = !strcmp(mode, "slow"), gone = !strcmp(mode, "vanish");
    if (slow || gone || !strcmp(mode, "hold")) {
        stay(&a, (long)amount, seconds, slow || gone, gone);
        return 0;
    }
    printf("ready\n");
    fflush(stdout);
    if (!strcmp(mode, "tear") || !strcmp(mode, "dial")) come_and_go(&a, amount, seconds, !strcmp(mode, "tear"));
    else if (!strcmp(mode, "syn") || !strcmp(mode, "udp")) invent(&a, amount, seconds, !strcmp(mode, "syn"));
    else return 2;
    return 0;
}
