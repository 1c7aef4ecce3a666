/* Options as JSON: run files, lines of a batch, the comment of a result. */
#include "launch/options_internal.h"
#include "runtime/json.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EXACT_MAX 9007199254740992.0 // 2^53: a double represents whole numbers up to here

static bool is_set(const struct option_set *set, const struct option *row)
{
    const void *from = option_field(set, row);

    switch (row->type) {
    case OPT_SWITCH:
    case OPT_BOOL:
    case OPT_CHOICE:
        return *(const int *)from >= 0;
    case OPT_INT:
        return *(const int *)from >= row->least || (row->least == 0 && row->most == 0);
    case OPT_I64:
        return (double)*(const int64_t *)from >= row->least || (row->least == 0 && row->most == 0);
    case OPT_SEED:
        return ((const struct seed *)from)->given;
    case OPT_DOUBLE:
    case OPT_SCALES:
        return *(const double *)from >= row->least || (row->least == 0 && row->most == 0);
    case OPT_STRING:
    case OPT_LIST:
    case OPT_TEXT:
        return *(char *const *)from != NULL;
    case OPT_PAIR:
        return *(const int *)from >= (row->most > 0 ? row->least : 1);
    case OPT_NUMBERS:
        return ((const struct number_list *)from)->count > 0;
    }
    return false;
}

/* Adds the items of a list, which are on lines of their own, as an array. */
static void add_list(cJSON *object, const char *name, const char *items)
{
    cJSON *array = cJSON_AddArrayToObject(object, name);

    for (const char *end; *items != 0; items = end + (*end != 0)) {
        char *item;

        end = items + strcspn(items, "\n");
        item = strndup(items, (size_t)(end - items));
        cJSON_AddItemToArray(array, cJSON_CreateString(item != NULL ? item : ""));
        free(item);
    }
}

static void add_value(cJSON *object, const struct option_set *set, const struct option *row)
{
    const void *from = option_field(set, row);
    const int *number = from;    // of the int types
    const double *scales = from; // of OPT_SCALES
    char word[64];

    switch (row->type) {
    case OPT_SWITCH:
    case OPT_BOOL:
        cJSON_AddBoolToObject(object, row->name, *number);
        break;
    case OPT_INT:
        cJSON_AddNumberToObject(object, row->name, *number);
        break;
    case OPT_I64: {
        const int64_t whole = *(const int64_t *)from;
        snprintf(word, sizeof(word), "%lld", (long long)whole);
        if ((double)llabs(whole) < EXACT_MAX)
            cJSON_AddNumberToObject(object, row->name, (double)whole);
        else
            cJSON_AddStringToObject(object, row->name, word);
        break;
    }
    case OPT_SEED: {
        const uint64_t seed = ((const struct seed *)from)->value;
        snprintf(word, sizeof(word), "%llu", (unsigned long long)seed);
        if ((double)seed < EXACT_MAX)
            cJSON_AddNumberToObject(object, row->name, (double)seed);
        else
            cJSON_AddStringToObject(object, row->name, word);
        break;
    }
    case OPT_DOUBLE:
        cJSON_AddNumberToObject(object, row->name, *(const double *)from);
        break;
    case OPT_STRING:
    case OPT_TEXT:
        cJSON_AddStringToObject(object, row->name, *(char *const *)from);
        break;
    case OPT_LIST:
        add_list(object, row->name, *(char *const *)from);
        break;
    case OPT_CHOICE:
        option_choice(row->choices, *number, word, sizeof(word));
        cJSON_AddStringToObject(object, row->name, word);
        break;
    case OPT_PAIR:
        snprintf(word, sizeof(word), "%d%c%d", number[0], row->joint, number[1]);
        cJSON_AddStringToObject(object, row->name, word);
        break;
    case OPT_SCALES:
        if (scales[0] == scales[1])
            cJSON_AddNumberToObject(object, row->name, scales[0]);
        else
            cJSON_AddItemToObject(object, row->name, cJSON_CreateDoubleArray(scales, 2));
        break;
    case OPT_NUMBERS: {
        const struct number_list *list = from;
        cJSON_AddItemToObject(object, row->name, cJSON_CreateDoubleArray(list->value, list->count));
        break;
    }
    }
}

status options_to_json(const struct option_set *set, char **text)
{
    cJSON *object = cJSON_CreateObject();

    for (int i = 0; i < set->count; i++) {
        const struct option *row = &set->rows[i];
        if (!row->positional && is_set(set, row))
            add_value(object, set, row);
    }
    *text = json_text(object, false);
    cJSON_Delete(object);
    return *text != NULL ? ST_OK : fail(ST_MEMORY, "cannot allocate host memory for JSON");
}

status options_value(const struct option_set *set, int index, char *text, size_t size)
{
    const struct option *row = &set->rows[index];
    cJSON *object;
    char *value;

    snprintf(text, size, "not given");
    if (!is_set(set, row))
        return ST_OK;
    object = cJSON_CreateObject();
    add_value(object, set, row);
    value = json_text(object != NULL ? object->child : NULL, false);
    cJSON_Delete(object);
    if (value == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for JSON");
    snprintf(text, size, "%s", value);
    free(value);
    return ST_OK;
}

static bool is_fraction(const struct option *row)
{
    return row->type == OPT_DOUBLE || row->type == OPT_SCALES;
}

/* Stores a JSON number. A whole number must be one that a double represents exactly. */
static status set_number(const struct option_set *set, const struct option *row, const char *what,
                         double value)
{
    char word[40];

    if (!is_fraction(row) && (value != rint(value) || fabs(value) > EXACT_MAX))
        return fail(ST_USAGE, "%s: expected a whole number up to 2^53; write larger ones in quotes",
                    what);
    snprintf(word, sizeof(word), is_fraction(row) ? "%.17g" : "%.0f", value);
    return option_set_word(set, row, what, word);
}

/* Stores a JSON array of two numbers. */
static status set_pair_of_numbers(const struct option_set *set, const struct option *row,
                                  const char *what, const cJSON *item)
{
    const cJSON *first = cJSON_GetArrayItem(item, 0), *second = cJSON_GetArrayItem(item, 1);
    char word[80];

    if (!cJSON_IsArray(item) || cJSON_GetArraySize(item) != 2 || !cJSON_IsNumber(first) ||
        !cJSON_IsNumber(second))
        return fail(ST_USAGE, "%s: expected a number, or two in an array", what);
    snprintf(word, sizeof(word), "%.17g%c%.17g", first->valuedouble, row->joint,
             second->valuedouble);
    return option_set_word(set, row, what, word);
}

/* Stores a JSON array of numbers, or one number. */
static status set_array(const struct option_set *set, const struct option *row, const char *what,
                        const cJSON *item)
{
    const cJSON *number = cJSON_IsArray(item) ? item->child : item;
    char word[NUMBER_LIST_MAX * 26 + 32] = "";
    size_t used = 0;

    for (; number != NULL; number = cJSON_IsArray(item) ? number->next : NULL) {
        if (!cJSON_IsNumber(number))
            return fail(ST_USAGE, "%s: expected an array of numbers", what);
        if (used + 32 > sizeof(word))
            return fail(ST_USAGE, "%s: more than %d numbers", what, NUMBER_LIST_MAX);
        used +=
            (size_t)snprintf(word + used, sizeof(word) - used, "%s%.17g",
                             used > 0 ? (const char[]){ row->joint, 0 } : "", number->valuedouble);
    }
    return option_set_word(set, row, what, word);
}

/* Replaces a list by the strings of a JSON array, or by one string. */
static status set_list(const struct option_set *set, const struct option *row, const char *what,
                       const cJSON *item)
{
    char **to = option_field(set, row);

    free(*to);
    *to = NULL;
    if (cJSON_IsString(item))
        return option_set_word(set, row, what, item->valuestring);
    for (const cJSON *one = cJSON_IsArray(item) ? item->child : item; one != NULL;
         one = one->next) {
        if (!cJSON_IsString(one))
            return fail(ST_USAGE, "%s: expected a string, or an array of strings", what);
        TRY(option_set_word(set, row, what, one->valuestring));
    }
    return ST_OK;
}

static status set_json(const struct option_set *set, const struct option *row, const char *what,
                       const cJSON *item)
{
    const bool large = row->type == OPT_I64 || row->type == OPT_SEED; // also as a string
    const bool number = row->type == OPT_INT || is_fraction(row) || large;

    if (row->type == OPT_SWITCH || row->type == OPT_BOOL) {
        if (!cJSON_IsBool(item))
            return fail(ST_USAGE, "%s: expected true or false", what);
        *(int *)option_field(set, row) = cJSON_IsTrue(item);
        return ST_OK;
    }
    if (row->type == OPT_LIST)
        return set_list(set, row, what, item);
    if (number && cJSON_IsNumber(item))
        return set_number(set, row, what, item->valuedouble);
    if (row->type == OPT_NUMBERS && !cJSON_IsString(item))
        return set_array(set, row, what, item);
    if (row->type == OPT_SCALES)
        return set_pair_of_numbers(set, row, what, item);
    if (!cJSON_IsString(item) || (number && !large))
        return fail(ST_USAGE, "%s: expected a %s", what, number ? "number" : "string");
    return option_set_word(set, row, what, item->valuestring);
}

status options_from_json(const struct option_set *set, unsigned mask, const char *text,
                         const char *where)
{
    status st;
    const char *end = NULL;
    cJSON *object = NULL;
    char what[256];

    TRY_OUT(json_parse(&object, text, strlen(text), &end, where));
    while (object != NULL && isspace((unsigned char)*end))
        end++;
    if (object == NULL || *end != '\0') {
        st = fail(ST_USAGE, "%s: not valid JSON at byte %lld", where,
                  (long long)(end != NULL ? end - text : 0));
        goto out;
    }
    if (!cJSON_IsObject(object)) {
        st = fail(ST_USAGE, "%s: expected a JSON object { ... }", where);
        goto out;
    }
    for (const cJSON *item = object->child; item != NULL; item = item->next) {
        const struct option *row = option_find(set, mask, item->string);
        snprintf(what, sizeof(what), "%s: %.60s", where, item->string);
        if (row == NULL || !option_is_used(row, mask)) {
            const char *near = option_nearest(item->string, mask, set, 1);
            st = near == NULL ? fail(ST_USAGE, "%s: no such key", what)
                              : fail(ST_USAGE, "%s: no such key; did you mean %s?", what, near);
            goto out;
        }
        TRY_OUT(set_json(set, row, what, item));
        option_mark_given(set, row);
    }
out:
    cJSON_Delete(object);
    return st;
}

bool options_is_set(const struct option_set *set, int index)
{
    return is_set(set, &set->rows[index]);
}
