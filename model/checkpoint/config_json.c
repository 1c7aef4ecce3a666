#include "model/checkpoint/config_json.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>

static void set(cJSON *json, const char *key, cJSON *value)
{
    cJSON_DeleteItemFromObjectCaseSensitive(json, key);
    if (value != NULL && !cJSON_AddItemToObject(json, key, value))
        cJSON_Delete(value);
}

void config_set_text(struct cJSON *json, const char *key, const char *text)
{
    set(json, key, text != NULL ? cJSON_CreateString(text) : cJSON_CreateNull());
}

void config_set_number(struct cJSON *json, const char *key, double value)
{
    set(json, key, cJSON_CreateNumber(value));
}

void config_set_bool(struct cJSON *json, const char *key, bool value)
{
    set(json, key, cJSON_CreateBool(value));
}

/* The decimal number with the fewest digits that reads back as this float: 0.4134, not
 * 0.41339999437332153. */
static double decimal(float value)
{
    char text[32];

    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value)
            break;
    }
    return strtod(text, NULL);
}

void config_set_float(struct cJSON *json, const char *key, float value)
{
    config_set_number(json, key, decimal(value));
}

void config_set_floats(struct cJSON *json, const char *key, const float *values, int count)
{
    cJSON *list = cJSON_CreateArray();

    for (int i = 0; i < count && list != NULL; i++)
        cJSON_AddItemToArray(list, cJSON_CreateNumber(decimal(values[i])));
    set(json, key, list);
}

void config_set_series(struct cJSON *json, const char *key, int count, int stride)
{
    cJSON *list = cJSON_CreateArray();

    for (int i = 0; i < count && list != NULL; i++)
        cJSON_AddItemToArray(list, cJSON_CreateNumber(i * stride));
    set(json, key, list);
}
