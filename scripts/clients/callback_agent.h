/* Asks the callback agent: which callbacks fire on this event? For C99 and POSIX, with libc alone.
 *
 * What it does: connects to the agent's pipe, sends one request, waits for its answer no longer than
 * the caller allows, connects again when the agent was restarted, and refuses a default pipe in a
 * folder of another user. What it does not: it reads no JSON beyond the members of one object, so
 * the result is text for the JSON library of the caller; no batches, no subscriptions, no threads
 * (each thread opens a client of its own). A client may be used after a fork.
 *
 *     callback_agent *agent = callback_agent_open(NULL);
 *     const char *text;
 *     if (callback_agent_call(agent, "lookup", "{\"event\":\"failed-job-self\"}", 2.0, &text) == 0)
 *         puts(text);
 *     else
 *         fprintf(stderr, "no answer: %s\n", text);
 *     callback_agent_close(agent);
 */
#ifndef CALLBACK_AGENT_H
#define CALLBACK_AGENT_H

#include <stddef.h>

/* Seconds that a call waits, within its limit, for an agent that is not there. */
#define CALLBACK_AGENT_RESTART 3.0
/* The longest answer in bytes, so that a broken server cannot fill the memory. */
#define CALLBACK_AGENT_MAX_ANSWER ((size_t)1 << 30)

typedef struct callback_agent callback_agent;

enum callback_agent_outcome {
    CALLBACK_AGENT_OK,        /* the text is the result, as JSON */
    CALLBACK_AGENT_REFUSED,   /* the text is the agent's error, as JSON: code, message, data */
    CALLBACK_AGENT_ABSENT,    /* nobody answers there; from here on the text is for a person */
    CALLBACK_AGENT_TIMED_OUT, /* no whole answer within the limit */
    CALLBACK_AGENT_BROKEN,    /* what answers is not an agent */
    CALLBACK_AGENT_NOT_SENT   /* no memory, or an argument that does not fit into one line */
};

/* A client of the agent whose pipe this is; NULL is the caller's own default pipe, else root's.
 * Nothing is opened before the first call. NULL if there is no memory. */
callback_agent *callback_agent_open(const char *path);
void callback_agent_close(callback_agent *agent);

/* Calls a method of the pipe with parameters, the text of a JSON object. It takes `seconds` at most.
 * The text that is returned is valid until the next call or close. */
enum callback_agent_outcome callback_agent_call(callback_agent *agent, const char *method,
                                                const char *params, double seconds,
                                                const char **text);

/* Text in UTF-8 as a JSON string with its quotes. For `free`; NULL if there is no memory. */
char *callback_agent_quote(const char *text);

/* The value of a member of a JSON object, where it begins in the object's text, and its length;
 * NULL where there is no such member. The name is compared as it is written in the text. */
const char *callback_agent_member(const char *object, const char *name, size_t *length);

#endif
