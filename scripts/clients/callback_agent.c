/* See callback_agent.h. */
#define _POSIX_C_SOURCE 200809L
#define _DARWIN_C_SOURCE /* SO_NOSIGPIPE, where there is no MSG_NOSIGNAL */
#include "callback_agent.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif
#define ROOT_PIPE "/run/callback-agent/pipe"
enum { READ_BYTES = 65536, PATH_BYTES = 512 }; /* a socket's path may have about 100 */
static const double PAUSE = 0.02; /* seconds between two attempts to connect */
typedef enum callback_agent_outcome outcome;

struct callback_agent {
    char *path;     /* NULL: the default pipes */
    int fd;         /* -1: not connected */
    int may_return; /* nobody is there, as during a restart */
    pid_t process;  /* the one that connected */
    char *buffer;   /* what was received; it begins with the `answered` bytes of the last call */
    size_t size, used, answered;
    char message[PATH_BYTES + 100]; /* why the last call failed */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static outcome failed(callback_agent *agent, outcome how, const char *where, const char *why)
{
    snprintf(agent->message, sizeof agent->message, "%s: %s", where, why);
    if (agent->fd >= 0)
        close(agent->fd);
    agent->fd = -1;
    return how;
}

/* Let the next operation on the socket last until the end. 0 if that has passed. */
static int limit(const callback_agent *agent, double end)
{
    double left = end - now();
    struct timeval t = {(time_t)left, (suseconds_t)((left - (double)(time_t)left) * 999998) + 1};
    return left > 0 && !setsockopt(agent->fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t) &&
           !setsockopt(agent->fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
}

static outcome connect_to(callback_agent *agent, const char *path, double end)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (!*path || strlen(path) >= sizeof address.sun_path)
        return failed(agent, CALLBACK_AGENT_ABSENT, path, "this path is empty or too long");
    memcpy(address.sun_path, path, strlen(path));
    if ((agent->fd = socket(AF_UNIX, SOCK_STREAM, 0)) < 0)
        return failed(agent, CALLBACK_AGENT_ABSENT, path, strerror(errno));
    fcntl(agent->fd, F_SETFD, FD_CLOEXEC);
#ifdef SO_NOSIGPIPE
    setsockopt(agent->fd, SOL_SOCKET, SO_NOSIGPIPE, &(int){1}, sizeof(int));
#endif
    agent->process = getpid();
    agent->used = agent->answered = 0;
    while (limit(agent, end)) {
        if (!connect(agent->fd, (struct sockaddr *)&address, sizeof address))
            return CALLBACK_AGENT_OK;
        if (errno != EAGAIN && errno != EINTR) {
            agent->may_return |= errno == ENOENT || errno == ECONNREFUSED;
            return failed(agent, CALLBACK_AGENT_ABSENT, path, strerror(errno));
        }
    }
    return failed(agent, CALLBACK_AGENT_TIMED_OUT, path, "no answer in time");
}

/* Connects to the named pipe, or else to the caller's own, or root's. The folder of the caller's own
 * must be theirs: anyone can make one in /tmp, and answers hold code that will be run. */
static outcome connect_any(callback_agent *agent, double end)
{
    const char *run = getenv("XDG_RUNTIME_DIR"), *tmp = getenv("TMPDIR");
    char path[PATH_BYTES], own[sizeof agent->message];
    struct stat found;
    outcome how = CALLBACK_AGENT_ABSENT;
    agent->may_return = 0;
    if (agent->path || geteuid() == 0)
        return connect_to(agent, agent->path ? agent->path : ROOT_PIPE, end);
    if (run && *run == '/')
        snprintf(path, sizeof path, "%.400s/callback-agent", run);
    else
        snprintf(path, sizeof path, "%.400s/callback-agent-%lu", tmp && *tmp == '/' ? tmp : "/tmp",
                 (unsigned long)geteuid());
    if (lstat(path, &found) != 0) {
        agent->may_return = 1;
        failed(agent, how, path, strerror(errno));
    } else if (!S_ISDIR(found.st_mode) || (found.st_uid != geteuid() && found.st_uid != 0)) {
        failed(agent, how, path, "this folder belongs to another user");
    } else if (found.st_mode & (S_IWGRP | S_IWOTH)) {
        failed(agent, how, path, "others may write to this folder: chmod go-w it");
    } else {
        strncat(path, "/pipe", sizeof path - strlen(path) - 1);
        how = connect_to(agent, path, end);
    }
    if (how == CALLBACK_AGENT_ABSENT) {
        strcpy(own, agent->message);
        how = connect_to(agent, ROOT_PIPE, end);
        strcpy(agent->message, own);
    }
    return how;
}

/* Receives the next line; it begins the buffer and ends with a NUL. */
static outcome receive_line(callback_agent *agent, double end)
{
    char *newline;
    size_t searched = 0;
    agent->used -= agent->answered;
    memmove(agent->buffer, agent->buffer + agent->answered, agent->used);
    agent->answered = 0;
    while (!(newline = memchr(agent->buffer + searched, '\n', agent->used - searched))) {
        searched = agent->used;
        if (agent->size - agent->used < READ_BYTES) {
            int is_endless = agent->used > CALLBACK_AGENT_MAX_ANSWER;
            char *larger = is_endless ? NULL : realloc(agent->buffer, 2 * agent->size);
            if (!larger)
                return failed(agent, CALLBACK_AGENT_BROKEN, "the answer", "it is too long");
            agent->buffer = larger;
            agent->size *= 2;
        }
        if (!limit(agent, end))
            return failed(agent, CALLBACK_AGENT_TIMED_OUT, "the agent", "no answer in time");
        ssize_t count = recv(agent->fd, agent->buffer + agent->used, READ_BYTES, 0);
        if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) {
            agent->may_return = 1;
            return failed(agent, CALLBACK_AGENT_ABSENT, "the agent", "it closed the connection");
        }
        agent->used += count > 0 ? (size_t)count : 0;
    }
    *newline = '\0';
    agent->answered = (size_t)(newline - agent->buffer) + 1;
    return CALLBACK_AGENT_OK;
}

/* Sends a line. If that fails, the agent may have sent the reason why it closed. */
static void send_line(const callback_agent *agent, const char *line, double end)
{
    for (size_t left = strlen(line); left > 0 && limit(agent, end);) {
        ssize_t count = send(agent->fd, line, left, MSG_NOSIGNAL);
        if (count < 0 && errno != EAGAIN && errno != EINTR)
            return;
        left -= count > 0 ? (size_t)count : 0;
        line += count > 0 ? count : 0;
    }
}

/* Asks once. Lines that do not answer the request, whose id is 1, are left out. */
static outcome ask(callback_agent *agent, const char *line, double end, const char **text)
{
    outcome how = agent->fd < 0 ? connect_any(agent, end) : CALLBACK_AGENT_OK;
    if (how == CALLBACK_AGENT_OK)
        send_line(agent, line, end);
    while (how == CALLBACK_AGENT_OK && (how = receive_line(agent, end)) == CALLBACK_AGENT_OK) {
        size_t id_length = 0, length = 0;
        const char *id = callback_agent_member(agent->buffer, "id", &id_length);
        const char *error = callback_agent_member(agent->buffer, "error", &length);
        const char *result = callback_agent_member(agent->buffer, "result", &length);
        const char *found = result ? result : error;
        int is_ours = id && id_length == 1 && *id == '1';
        /* An error without an id is about the connection, which the agent then closes. */
        int is_last = id && id_length == 4 && *id == 'n' && error && !result;
        if (*agent->buffer != '{' || (is_ours && !found))
            return failed(agent, CALLBACK_AGENT_BROKEN, "what answers", "it is not an agent");
        if (is_last)
            failed(agent, CALLBACK_AGENT_REFUSED, "the agent", "refused");
        if (is_ours || is_last) {
            agent->buffer[(size_t)(found - agent->buffer) + length] = '\0';
            *text = found;
            return result ? CALLBACK_AGENT_OK : CALLBACK_AGENT_REFUSED;
        }
    }
    return how;
}

outcome callback_agent_call(callback_agent *agent, const char *method, const char *params,
                            double seconds, const char **text)
{
    double end = now() + (seconds < 1e6 ? seconds : 1e6);
    double restarted = now() + CALLBACK_AGENT_RESTART, wait_until = end < restarted ? end : restarted;
    size_t size = strlen(method) + strlen(params) + 64;
    char *line = strpbrk(method, "\"\\\n") || strchr(params, '\n') ? NULL : malloc(size);
    *text = agent->message;
    if (!line)
        return failed(agent, CALLBACK_AGENT_NOT_SENT, "the request", "a line feed, or no memory");
    snprintf(line, size, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"%s\",\"params\":%s}\n", method,
             params);
    for (;;) {
        if (agent->fd >= 0 && agent->process != getpid()) /* each would get parts of the answers */
            failed(agent, CALLBACK_AGENT_ABSENT, "the connection", "it is that of another process");
        int is_new = agent->fd < 0;
        outcome how = ask(agent, line, end, text);
        int repeats = how == CALLBACK_AGENT_ABSENT && agent->may_return;
        if (repeats && is_new && (repeats = now() + PAUSE < wait_until)) {
            nanosleep(&(struct timespec){0, (long)(PAUSE * 1e9)}, NULL);
            repeats = now() < end;
        }
        if (!repeats) {
            free(line);
            return how;
        }
    }
}

callback_agent *callback_agent_open(const char *path)
{
    callback_agent *agent = calloc(1, sizeof *agent);
    if (!agent)
        return NULL;
    agent->fd = -1;
    agent->size = 2 * READ_BYTES;
    agent->buffer = malloc(agent->size);
    agent->path = path ? strdup(path) : NULL;
    if (agent->buffer && (agent->path || !path))
        return agent;
    callback_agent_close(agent);
    return NULL;
}

void callback_agent_close(callback_agent *agent)
{
    if (agent) {
        failed(agent, CALLBACK_AGENT_OK, "this client", "closed");
        free(agent->path);
        free(agent->buffer);
        free(agent);
    }
}
