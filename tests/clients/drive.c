/* Calls scripts/clients/callback_agent.c: on each line of standard input a request as JSON, on each
 * line of standard output its outcome. `fork` is a call in a child first.
 *
 * usage: drive [PIPE, or nothing for the default one [TIMEOUT]]; drive --quote; drive --member NAME */
#define _POSIX_C_SOURCE 200809L
#include "callback_agent.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* A copy of the value of a member, or of what stands for it. */
static char *member(const char *object, const char *name, const char *otherwise)
{
    size_t length = strlen(otherwise);
    const char *found = callback_agent_member(object, name, &length);
    return strndup(found ? found : otherwise, length);
}

static void interrupted(int number)
{
    (void)number;
}

static void call(callback_agent *agent, const char *line, double seconds)
{
    static const char *const classes[] = {"", "Refused", "NoAgent", "TimedOut", "Error", "NotSent"};
    const char *text;
    char *method = member(line, "method", "\"\""), *params = member(line, "params", "{}");
    method[strlen(method) - 1] = '\0';
    int outcome = callback_agent_call(agent, method + 1, params, seconds, &text);
    if (outcome <= CALLBACK_AGENT_REFUSED) {
        printf("{\"%s\":%s}\n", outcome == CALLBACK_AGENT_OK ? "result" : "error", text);
    } else {
        char *quoted = callback_agent_quote(text);
        printf("{\"error\":{\"message\":%s,\"class\":\"%s\"}}\n", quoted, classes[outcome]);
        free(quoted);
    }
    fflush(stdout);
    free(method);
    free(params);
}

/* The helpers for JSON: for each line its text as JSON, or the value of a member of its object. */
static void help(char **arguments, char *line)
{
    line[strcspn(line, "\n")] = '\0';
    int quotes = strcmp(arguments[1], "--quote") == 0;
    char *found = quotes ? callback_agent_quote(line) : member(line, arguments[2], "");
    puts(found);
    fflush(stdout);
    free(found);
}

int main(int count, char **arguments)
{
    callback_agent *agent = callback_agent_open(count > 1 && *arguments[1] ? arguments[1] : NULL);
    double seconds = count > 2 ? atof(arguments[2]) : 60;
    char *line = NULL;
    size_t size = 0;
    struct sigaction action = {.sa_handler = interrupted}; /* without SA_RESTART */
    sigaction(SIGUSR1, &action, NULL);
    while (getline(&line, &size, stdin) > 0) {
        size_t length;
        if (count > 1 && arguments[1][0] == '-') {
            help(arguments, line);
        } else if (callback_agent_member(line, "fork", &length)) {
            pid_t child = fork();
            if (child > 0)
                waitpid(child, NULL, 0);
            call(agent, line, seconds);
            if (child == 0)
                _exit(0);
        } else {
            call(agent, line, seconds);
        }
    }
    free(line);
    callback_agent_close(agent);
    return 0;
}
