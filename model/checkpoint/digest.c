#include "model/checkpoint/checkpoint_internal.h"
#include "runtime/hash.h"

#include <md5.h>
#include <string.h>

#define SAMPLE 64        // elements that are read of a tensor
#define TENSORS_MOST 256 // that are read of a part, spread evenly over it

/* Where the sample of a tensor begins: anywhere, but always the same. */
static int64_t sample_at(const char *name, int64_t count)
{
    return count <= SAMPLE
               ? 0
               : (int64_t)(hash_text(HASH_START, name) % (uint64_t)(count - SAMPLE + 1));
}

static status add_tensor(MD5_CTX *md5, const struct weight_source *source,
                         const struct weight_spec *spec, const char *name)
{
    const int64_t count = tensor_count(tensor_dims(NULL, spec->dtype, spec->ndim, spec->dim));
    const int64_t taken = count < SAMPLE ? count : SAMPLE;
    uint8_t sample[SAMPLE * 8] = { 0 };

    TRY(source->read(source->payload, spec, name, sample_at(name, count), taken, sample));
    MD5Update(md5, (const uint8_t *)name, strlen(name));
    MD5Update(md5, sample, (size_t)taken * dtype_size(spec->dtype));
    return ST_OK;
}

status checkpoint_digest(struct checkpoint *c, const struct part *part, char *hex)
{
    const struct weight_source source = part_source(part_of(c, part));
    struct tensor_list list = { 0 };
    MD5_CTX md5;
    status st;
    int index = 0, every;

    part->tensors(&list, checkpoint_config(c, part), checkpoint_file(c, part));
    TRY_OUT(tensors_status(&list));
    every = 1 + tensors_total(&list) / TENSORS_MOST;
    MD5Init(&md5);
    for (int s = 0; s < list.stack_count; s++) {
        const struct tensor_stack *stack = &list.stacks[s];

        for (int i = 0; i < stack->units * stack->count; i++) {
            char name[WEIGHT_NAME_BYTES];
            const struct weight_spec *spec = tensors_nth(&list, stack, i, name);

            if (index++ % every == 0)
                TRY_OUT(add_tensor(&md5, &source, spec, name));
        }
    }
    MD5End(&md5, hex);
out:
    tensors_done(&list);
    return st;
}
