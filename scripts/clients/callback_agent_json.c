/* The JSON that callers of the callback agent need; see callback_agent.h. */
#include "callback_agent.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *after_space(const char *at)
{
    return at + strspn(at, " \t\r\n");
}

/* Where the JSON value that begins here ends; NULL if it does not. */
static const char *after_value(const char *at)
{
    size_t depth = 0;
    do {
        if (*at == '"') {
            for (at++; *at != '"'; at++)
                if (!*at || (*at == '\\' && !*++at))
                    return NULL;
        } else if (*at == '{' || *at == '[') {
            depth++;
        } else if (*at == '}' || *at == ']') {
            if (depth-- == 0)
                return NULL;
        } else if (depth == 0) {
            size_t length = strcspn(at, ",:]}\" \t\r\n");
            return length ? at + length : NULL;
        } else if (!*at) {
            return NULL;
        }
        at++;
    } while (depth > 0);
    return at;
}

const char *callback_agent_member(const char *object, const char *name, size_t *length)
{
    const char *at = after_space(object), *key, *value, *end;
    while (*at == '{' || *at == ',') {
        key = after_space(at + 1);
        end = *key == '"' ? after_value(key) : NULL;
        value = end && *after_space(end) == ':' ? after_space(after_space(end) + 1) : "";
        at = after_value(value);
        if (!end || !at)
            return NULL;
        if ((size_t)(end - key) == strlen(name) + 2 && !memcmp(key + 1, name, strlen(name))) {
            *length = (size_t)(at - value);
            return value;
        }
        at = after_space(at);
    }
    return NULL;
}

char *callback_agent_quote(const char *text)
{
    char *quoted = malloc(6 * strlen(text) + 3), *at = quoted;
    if (!quoted)
        return NULL;
    *at++ = '"';
    for (; *text; text++) {
        if ((unsigned char)*text < ' ')
            at += sprintf(at, "\\u%04x", (unsigned)*text);
        else if (*text == '"' || *text == '\\')
            at += sprintf(at, "\\%c", *text);
        else
            *at++ = *text;
    }
    strcpy(at, "\"");
    return quoted;
}
