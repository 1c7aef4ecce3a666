/* motion.h - DiffSynth's motion controller: a small network that makes, of a number for the speed
 * of what moves, an addend to the modulation of all blocks. It is a file of its own, for the
 * transformer of a T2V model.
 *
 * Source: DiffSynth-Studio diffsynth/models/wan_video_motion_controller.py. */
#ifndef MODEL_TRANSFORMER_MOTION_H
#define MODEL_TRANSFORMER_MOTION_H

#include "model/checkpoint/tensors.h"

struct motion_config {
    int64_t dim, freq_dim; // width of the transformer, and of the sinusoids
};

/* Emits the list of its tensors. */
void motion_tensors(struct tensor_list *l, const struct motion_config *c);

/* Bytes of the arena that motion_run needs. */
size_t motion_bytes(const struct motion_config *c);

/* out [6 * dim] in host memory = the addend, computed in f32 on dev, a CPU. Local. ST_IO,
 * ST_FORMAT, ST_MEMORY. */
status motion_run(float *out, const struct motion_config *c, struct device *dev, struct arena *a,
                  struct weight_source source, int motion_bucket_id);

#endif
