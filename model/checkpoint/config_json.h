/* config_json.h - keys of a config.json that synth writes; a key that is there is replaced. No
 * memory: the key is left out, which synth's caller finds (config_text). */
#ifndef MODEL_CHECKPOINT_CONFIG_JSON_H
#define MODEL_CHECKPOINT_CONFIG_JSON_H

#include <stdbool.h>

struct cJSON;

void config_set_text(struct cJSON *json, const char *key, const char *text); // NULL: null
void config_set_number(struct cJSON *json, const char *key, double value);
void config_set_bool(struct cJSON *json, const char *key, bool value);
void config_set_floats(struct cJSON *json, const char *key, const float *values, int count);

/* 0, stride, 2 * stride, ...: `count` numbers. */
void config_set_series(struct cJSON *json, const char *key, int count, int stride);

#endif
