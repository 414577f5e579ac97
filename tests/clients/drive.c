/* Calls scripts/clients/callback_agent.c: on each line of standard input a request as JSON, on each
 * line of standard output its outcome. */
#define _POSIX_C_SOURCE 200809L
#include "callback_agent.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A copy of the value of a member, or of what stands for it. */
static char *member(const char *object, const char *name, const char *otherwise)
{
    size_t length = strlen(otherwise);
    const char *found = callback_agent_member(object, name, &length);
    return strndup(found ? found : otherwise, length);
}

int main(int count, char **arguments)
{
    callback_agent *agent = callback_agent_open(count > 1 ? arguments[1] : NULL);
    double seconds = count > 2 ? atof(arguments[2]) : 60;
    char *line = NULL;
    size_t size = 0;
    while (getline(&line, &size, stdin) > 0) {
        const char *text;
        char *method = member(line, "method", "\"\""), *params = member(line, "params", "{}");
        method[strlen(method) - 1] = '\0';
        int outcome = callback_agent_call(agent, method + 1, params, seconds, &text);
        if (outcome <= CALLBACK_AGENT_REFUSED) {
            printf("{\"%s\":%s}\n", outcome == CALLBACK_AGENT_OK ? "result" : "error", text);
        } else {
            char *quoted = callback_agent_quote(text);
            printf("{\"error\":{\"message\":%s,\"class\":\"%d\"}}\n", quoted, outcome);
            free(quoted);
        }
        fflush(stdout);
        free(method);
        free(params);
    }
    free(line);
    callback_agent_close(agent);
    return 0;
}
