/* config_json.h - functions that set keys of a config.json, which synth writes. A key that exists
 * is replaced. If host memory cannot be allocated, the key is omitted and no error is reported. */
#ifndef MODEL_CHECKPOINT_CONFIG_JSON_H
#define MODEL_CHECKPOINT_CONFIG_JSON_H

#include <stdbool.h>

struct cJSON;

void config_set_text(struct cJSON *json, const char *key, const char *text); // NULL: null
void config_set_number(struct cJSON *json, const char *key, double value);
void config_set_bool(struct cJSON *json, const char *key, bool value);

/* A number, or a list, with the fewest digits that read back as the same floats. */
void config_set_float(struct cJSON *json, const char *key, float value);
void config_set_floats(struct cJSON *json, const char *key, const float *values, int count);

/* A list of `count` numbers: 0, stride, 2 * stride, ... */
void config_set_series(struct cJSON *json, const char *key, int count, int stride);

#endif
