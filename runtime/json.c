#include "runtime/json.h"

#include <cjson/cJSON.h>
#include <stdlib.h>

static _Thread_local bool lacked;

static void *allocate(size_t bytes)
{
    void *p = malloc(bytes);

    lacked = lacked || p == NULL;
    return p;
}

/* Before main: objects are made by calls of cJSON's own. */
__attribute__((constructor)) static void set_hooks(void)
{
    cJSON_InitHooks(&(cJSON_Hooks){ .malloc_fn = allocate, .free_fn = free });
}

status json_parse(cJSON **json, const char *text, size_t length, const char **end,
                  const char *where)
{
    const bool before = lacked;
    bool now;

    lacked = false;
    *json = cJSON_ParseWithLengthOpts(text, length, end, false);
    now = lacked;
    lacked = before;
    return now ? fail(ST_MEMORY, "%s: cannot allocate host memory for its JSON", where) : ST_OK;
}

char *json_text(const cJSON *json, bool indented)
{
    char *text = indented ? cJSON_Print(json) : cJSON_PrintUnformatted(json);

    if (lacked) {
        free(text);
        text = NULL;
    }
    lacked = false;
    return text;
}
