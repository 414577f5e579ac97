/*
 * The load generator of scripts/bench: asks a server on a Unix socket as fast as it answers,
 * checks every byte of every answer, and measures how long each one took.
 *
 * One program asks both sides, so that what it costs itself is the same for both. What is
 * asked and what must come back are two files of bytes, in which two bytes stand for others:
 *
 *   \x01  the request's number in decimal. Numbers grow by one from FIRST_ID over the whole
 *         run, so no server can keep the answer to a whole line and send it again.
 *   \x02  (answers only) any bytes up to the next literal byte: for what may change during a
 *         run, like a generation.
 *
 * Each connection sends a batch of DEPTH requests in one write, and the next batch when the
 * last one is answered whole. With --rate it is an open loop instead: requests fall due at that
 * pace whether the server keeps up or not, and their time counts from then, so that a pause of
 * the server is felt by all that fell due in it.
 *
 * Prints one line of JSON. Times are microseconds; "cpu" is this program's own share of one core:
 * well below 1 says that it was not the bottleneck.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_CONNECTIONS = 1024,
    MAX_DEPTH = 1024,
    MAX_PARTS = 16,              /* literal and marked parts of a request or an answer */
    MAX_TEMPLATE = 64 * 1024,    /* bytes of a request or an answer */
    BUFFER = 1024 * 1024,        /* bytes read ahead on one connection */
    MAX_BATCH = 4 * 1024 * 1024, /* bytes of one batch */
    MAX_DUE = 1 << 16,           /* requests that may wait for a free connection under --rate */
    GRACE_SECONDS = 10,          /* a server that is silent this long after the end is stuck */
    SHOWN = 300,                 /* bytes of a wrong answer that are shown */
    SUB = 64,                    /* histogram steps in each doubling: within 1.6 % */
    BUCKETS = 64 * SUB,
};
#define FIRST_ID 1000000u /* seven digits for the first nine million requests: one length */
#define NS 1000000000ull

enum kind { LITERAL, ID, ANY };
struct part { enum kind kind; const char *bytes; size_t length; };
struct template { struct part parts[MAX_PARTS]; int count; };

struct connection {
    int fd;
    char *buffer;
    size_t have;       /* bytes in buffer that belong to no complete answer yet */
    uint64_t next_id;  /* number that the next answer must carry */
    int waiting;       /* answers still to come of the batch under way */
    uint64_t since;    /* when that batch was sent, or fell due */
};

static struct connection connections[MAX_CONNECTIONS];
static struct template request, answer;
static bool bulk; /* answers are RESP bulk strings, not lines */
static int connection_count = 1, depth = 1;
static double rate;
static uint64_t next_id = FIRST_ID, answers, stop_at, histogram[BUCKETS], slowest;

static struct connection *idle[MAX_CONNECTIONS];
static int idle_count;
static uint64_t due[MAX_DUE];
static unsigned due_head, due_tail;

static void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS + (uint64_t)t.tv_nsec;
}

static uint64_t cpu_time(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * NS +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000;
}

/* ---- requests and answers ---- */

static struct template read_template(const char *path)
{
    struct template t = {.count = 0};
    char *bytes = malloc(MAX_TEMPLATE);
    FILE *file = fopen(path, "rb");
    if (!bytes || !file)
        die("cannot read %s: %s", path, strerror(errno));
    size_t length = fread(bytes, 1, MAX_TEMPLATE, file);
    fclose(file);
    if (length == 0 || length == MAX_TEMPLATE)
        die("%s has %zu bytes, expected 1 to %d", path, length, MAX_TEMPLATE - 1);
    for (size_t i = 0; i < length;) {
        if (t.count == MAX_PARTS)
            die("%s has more than %d parts", path, MAX_PARTS);
        struct part *part = &t.parts[t.count++];
        size_t begin = i;
        if (bytes[i] == 1 || bytes[i] == 2) {
            part->kind = bytes[i++] == 1 ? ID : ANY;
            continue;
        }
        while (i < length && bytes[i] != 1 && bytes[i] != 2)
            i++;
        *part = (struct part){LITERAL, bytes + begin, i - begin};
    }
    for (int i = 0; i < t.count; i++)
        if (t.parts[i].kind == ANY && (i + 1 == t.count || t.parts[i + 1].kind != LITERAL))
            die("%s: \\x02 must be followed by a literal byte", path);
    return t;
}

static size_t decimal(uint64_t value, char out[20])
{
    char digits[20];
    size_t n = 0, i;
    do
        digits[n++] = (char)('0' + value % 10);
    while (value /= 10);
    for (i = 0; i < n; i++)
        out[i] = digits[n - 1 - i];
    return n;
}

/* Bytes that a request may take, whatever its number. */
static size_t longest_request(void)
{
    size_t length = 0;
    for (int i = 0; i < request.count; i++)
        length += request.parts[i].kind == LITERAL ? request.parts[i].length : 20;
    return length;
}

static char *write_request(char *out, uint64_t id)
{
    char digits[20];
    size_t n = decimal(id, digits);
    for (int i = 0; i < request.count; i++) {
        const struct part *part = &request.parts[i];
        const char *from = part->kind == LITERAL ? part->bytes : digits;
        size_t length = part->kind == LITERAL ? part->length : n;
        memcpy(out, from, length);
        out += length;
    }
    return out;
}

static bool is_expected(const char *at, const char *end, uint64_t id)
{
    char digits[20];
    size_t n = 0;
    for (int i = 0; i < answer.count; i++) {
        const struct part *part = &answer.parts[i];
        if (part->kind == ANY) {
            at = memchr(at, part[1].bytes[0], (size_t)(end - at));
            if (!at)
                return false;
            continue;
        }
        if (part->kind == ID && n == 0)
            n = decimal(id, digits);
        const char *want = part->kind == LITERAL ? part->bytes : digits;
        size_t length = part->kind == LITERAL ? part->length : n;
        if ((size_t)(end - at) < length || memcmp(at, want, length) != 0)
            return false;
        at += length;
    }
    return at == end;
}

static void wrong(const char *at, const char *end, uint64_t id)
{
    fprintf(stderr, "load: wrong answer to request %llu: %.*s\nload: expected: ",
            (unsigned long long)id, (int)(end - at > SHOWN ? SHOWN : end - at), at);
    for (int i = 0; i < answer.count; i++) {
        const struct part *part = &answer.parts[i];
        if (part->kind == LITERAL)
            fprintf(stderr, "%.*s", (int)(part->length > SHOWN ? SHOWN : part->length),
                    part->bytes);
        else
            fputs(part->kind == ID ? "<number>" : "<any>", stderr);
    }
    fputc('\n', stderr);
    exit(1);
}

/* End of the first whole answer in [at, end), NULL if there is none yet. */
static const char *answer_end(const char *at, const char *end)
{
    const char *line = memchr(at, '\n', (size_t)(end - at));
    if (!line)
        return NULL;
    line++;
    if (!bulk || *at != '$')
        return line;
    long length = strtol(at + 1, NULL, 10); /* -1, no value, ends with its line */
    if (length < 0)
        return line;
    return end - line >= length + 2 ? line + length + 2 : NULL;
}

/* ---- latencies ---- */

static void record(uint64_t ns)
{
    int index;
    if (ns < SUB) {
        index = (int)ns;
    } else {
        int octave = 63 - __builtin_clzll(ns); /* SUB is 2^6 */
        index = (octave - 5) * SUB + (int)((ns >> (octave - 6)) & (SUB - 1));
    }
    histogram[index]++;
    if (ns > slowest)
        slowest = ns;
}

static double percentile(double share)
{
    uint64_t rank = (uint64_t)((double)answers * share), seen = 0;
    for (int i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if (seen <= rank)
            continue;
        if (i < SUB)
            return i / 1e3;
        int octave = i / SUB + 5;
        double step = (double)(1ull << (octave - 6));
        return ((double)(SUB + i % SUB) + 0.5) * step / 1e3;
    }
    return (double)slowest / 1e3;
}

/* ---- asking ---- */

static void send_batch(struct connection *c, uint64_t since)
{
    static char batch[MAX_BATCH];
    char *end = batch;
    c->next_id = next_id;
    for (int i = 0; i < depth; i++)
        end = write_request(end, next_id++);
    c->waiting = depth;
    c->since = since;
    for (char *at = batch; at < end;) {
        ssize_t n = send(c->fd, at, (size_t)(end - at), MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            die("the server did not take a request: %s", strerror(errno));
        if (n > 0)
            at += n;
    }
}

static void receive(struct connection *c)
{
    ssize_t n = recv(c->fd, c->buffer + c->have, BUFFER - c->have, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        die("the server closed the connection: %s", n ? strerror(errno) : "end of file");
    uint64_t time = now();
    /* On a busy machine nobody may have run until now: the first answer is always measured. */
    if (answers == 0 && time >= stop_at)
        stop_at = time + 1;
    const char *at = c->buffer, *end = c->buffer + c->have + n, *next;
    while ((next = answer_end(at, end))) {
        if (c->waiting == 0 || !is_expected(at, next, c->next_id))
            wrong(at, next, c->next_id);
        c->next_id++;
        c->waiting--;
        if (time < stop_at) {
            answers++;
            record(time - c->since);
        }
        at = next;
    }
    c->have = (size_t)(end - at);
    memmove(c->buffer, at, c->have);
    if (c->have == BUFFER)
        die("an answer is longer than %d bytes", BUFFER);
    if (c->waiting)
        return;
    if (rate == 0 && time < stop_at)
        send_batch(c, time);
    else if (due_head != due_tail && time < stop_at)
        send_batch(c, due[due_head++ % MAX_DUE]);
    else
        idle[idle_count++] = c;
}

/* Under --rate: `count` requests have fallen due now. */
static void fall_due(uint64_t count)
{
    uint64_t time = now();
    if (time >= stop_at)
        return;
    while (count--) {
        if (idle_count) {
            send_batch(idle[--idle_count], time);
        } else {
            if (due_tail - due_head == MAX_DUE)
                die("the server cannot keep up with %.0f requests a second", rate);
            due[due_tail++ % MAX_DUE] = time;
        }
    }
}

static void start_over(void)
{
    answers = slowest = 0;
    memset(histogram, 0, sizeof histogram);
}

static void give_up(int signal)
{
    (void)signal;
    static const char text[] = "load: the server did not answer any more\n";
    (void)!write(STDERR_FILENO, text, sizeof text - 1);
    _exit(1);
}

static void add(int epoll, int fd, void *data)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = data};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        die("epoll_ctl: %s", strerror(errno));
}

static void connect_all(const char *path, int epoll)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        die("the socket's path is too long: %s", path);
    strcpy(address.sun_path, path);
    for (int i = 0; i < connection_count; i++) {
        struct connection *c = &connections[i];
        c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        c->buffer = malloc(BUFFER);
        if (c->fd < 0 || !c->buffer ||
            connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0)
            die("cannot connect to %s: %s", path, strerror(errno));
        add(epoll, c->fd, c);
    }
}

static int start_timer(int epoll)
{
    uint64_t interval = (uint64_t)((double)NS / rate);
    struct timespec step = {(time_t)(interval / NS), (long)(interval % NS)};
    struct itimerspec timer = {step, step};
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (fd < 0 || timerfd_settime(fd, 0, &timer, NULL) < 0)
        die("timerfd: %s", strerror(errno));
    add(epoll, fd, NULL);
    return fd;
}

static void run(const char *path, double seconds, double warm_up)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC), timer = -1;
    connect_all(path, epoll);
    uint64_t begin = now(), warm_at = begin + (uint64_t)(warm_up * (double)NS), cpu = cpu_time();
    bool warm = false;
    stop_at = UINT64_MAX;
    if (rate > 0)
        timer = start_timer(epoll);
    for (int i = 0; i < connection_count; i++) {
        if (rate > 0)
            idle[idle_count++] = &connections[i];
        else
            send_batch(&connections[i], now());
    }
    uint64_t time;
    while ((time = now()) < stop_at || idle_count < connection_count) {
        struct epoll_event events[64];
        if (!warm && time >= warm_at) {
            warm = true;
            start_over();
            begin = time;
            stop_at = begin + (uint64_t)(seconds * (double)NS);
            cpu = cpu_time();
        }
        int n = epoll_wait(epoll, events, 64, 1000);
        if (n < 0 && errno != EINTR)
            die("epoll_wait: %s", strerror(errno));
        for (int i = 0; i < n; i++) {
            uint64_t count;
            if (events[i].data.ptr)
                receive(events[i].data.ptr);
            else if (read(timer, &count, sizeof count) == sizeof count)
                fall_due(count);
        }
    }
    double share = (double)(cpu_time() - cpu) / (double)(time - begin);
    double elapsed = (double)(stop_at - begin) / (double)NS;
    if (answers == 0)
        die("no answer in %.1f seconds", elapsed);
    printf("{\"answers\": %llu, \"seconds\": %.4f, \"per_second\": %.1f, \"p50\": %.2f, "
           "\"p99\": %.2f, \"p999\": %.2f, \"max\": %.2f, \"cpu\": %.4f}\n",
           (unsigned long long)answers, elapsed, (double)answers / elapsed, percentile(0.5),
           percentile(0.99), percentile(0.999), (double)slowest / 1e3, share);
}

static const char usage[] =
    "load --socket PATH --request FILE --answer FILE [--frame line|bulk] [--connections N]\n"
    "     [--depth N] [--seconds S] [--warm-up S] [--rate REQUESTS_A_SECOND]";

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"socket", required_argument, NULL, 's'}, {"request", required_argument, NULL, 'q'},
        {"answer", required_argument, NULL, 'a'}, {"frame", required_argument, NULL, 'f'},
        {"connections", required_argument, NULL, 'c'}, {"depth", required_argument, NULL, 'd'},
        {"seconds", required_argument, NULL, 't'}, {"warm-up", required_argument, NULL, 'w'},
        {"rate", required_argument, NULL, 'r'}, {NULL, 0, NULL, 0}};
    const char *path = NULL;
    double seconds = 1, warm_up = 0.2;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case 's': path = optarg; break;
        case 'q': request = read_template(optarg); break;
        case 'a': answer = read_template(optarg); break;
        case 'f': bulk = strcmp(optarg, "bulk") == 0; break;
        case 'c': connection_count = atoi(optarg); break;
        case 'd': depth = atoi(optarg); break;
        case 't': seconds = atof(optarg); break;
        case 'w': warm_up = atof(optarg); break;
        case 'r': rate = atof(optarg); break;
        default: die("%s", usage);
        }
    }
    if (!path || !request.count || !answer.count || optind != argc)
        die("%s", usage);
    if (connection_count < 1 || connection_count > MAX_CONNECTIONS || depth < 1 ||
        depth > MAX_DEPTH || seconds <= 0 || seconds > 60 || warm_up < 0 || warm_up > 10)
        die("connections 1-%d, depth 1-%d, seconds up to 60, warm-up up to 10", MAX_CONNECTIONS,
            MAX_DEPTH);
    if (rate < 0 || (rate > 0 && depth != 1))
        die("--rate asks one at a time: it goes with --depth 1");
    if (longest_request() * (size_t)depth > MAX_BATCH)
        die("a batch of %d requests has more than %d bytes", depth, MAX_BATCH);
    signal(SIGALRM, give_up);
    alarm((unsigned)(seconds + warm_up) + GRACE_SECONDS);
    run(path, seconds, warm_up);
    return 0;
}
