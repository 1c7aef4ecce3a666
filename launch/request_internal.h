/* request_internal.h - the rows of request_rows.c, for the files that compare requests. */
#ifndef LAUNCH_REQUEST_INTERNAL_H
#define LAUNCH_REQUEST_INTERNAL_H

#include "launch/request.h"

#define AT(f) offsetof(struct request, f)

enum {
    CMD_LINE = 8,   // a line of a batch file
    CMD_RECORD = 16 // a result or a run file
};

/* Bits of a row's `marks`; the bits from 8 on are the number of an input. */
enum {
    NUMBERS = 1,   // the value changes the resulting latent; --resume keeps the run file's value
    JOB = 2,       // the value is the same for all requests of a batch
    VIDEO = 4,     // not used for a single image
    PIXELS = 8,    // the value changes the resulting file, but not the latent
    SAMPLING = 16, // if it was not given, request_fill_sampling sets it from such rows that were
    CACHE = 32     // the same by request_fill_cache; the rows other than `cache` need it
};

/* `marks` of an input that only some tasks use has its number (enum task_input) plus 1. */
#define INPUT_SHIFT 8

extern const struct option request_rows[];
extern const int request_row_count;

/* Sets r->looks_like if the names or the metadata of the checkpoint's files or LoRAs have a
 * preset's words, and the request does not say what the steps are. part_dit is open. */
void request_recognize(struct request *r, struct checkpoint *c);

/* Whether the row at this offset was given. */
bool request_given(const struct request *r, size_t offset);

/* Sets the sampling settings that were not given: from the preset, else the task's; `shift`: the
 * task's for this size. Then they can be checked. ST_USAGE. */
status request_fill_sampling(struct request *r, double shift);
status request_check_sampling(const struct request *r);
status request_check_guidance(const struct request *r); // part of it

/* Checks --input_video and --denoising_strength; `whole`: an input that is not given is missing.
 * ST_USAGE. */
status request_check_video(const struct request *r, bool whole);

/* Checks the flags of windows. ST_USAGE. */
status request_check_windows(const struct request *r);

/* The share of the whole schedule that lies before the first step. */
double request_start(const struct request *r);

/* ST_USAGE if a clip has fewer frames than the video. */
status request_check_length(const struct request *r, int input);

/* Sets what --fast sets and was not given; sampling and device are known. ST_MEMORY. */
status request_fill_fast(struct request *r);

/* Whether --fast sets the row, for each line of a batch anew. */
bool request_fast_sets(int row);

/* Sets what was not given of step caching, and checks the rest; reads the file of --cache_ratios.
 * ST_USAGE, ST_IO, ST_FORMAT, ST_MEMORY. */
status request_fill_cache(struct request *r);

/* The value of an input in r->media, "640x480:DIGEST" of an image, "640x480x81@16:DIGEST" of a
 * clip, and its length; NULL if it has none. */
const char *request_find_media(const struct request *r, int input, size_t *length);
status request_add_media(struct request *r, int input, const char *value); // ST_MEMORY

/* The clips, as request_read_images, request_image_sizes, request_share_images (on rank 0) and
 * request_drop_images do with the images, and called by these. All frames that are used are decoded
 * by the first, so that nothing of a clip fails late. */
status request_read_clips(struct request *r);
void request_clip_sizes(struct request *r);
status request_open_clips(struct request *r);
void request_close_clips(struct request *r);

/* The same for lists of images: r->reference. */
status request_read_references(struct request *r);
status request_reference_sizes(struct request *r);

/* Sends rank 0's image to all ranks, where its size is known. Collective. ST_MEMORY. */
status request_share_image(struct world *w, struct image *image);

/* The path of the camera. check: refuses what makes none, and reads and identifies the file of
 * --control_camera_txt, as an image is; `whole`: a path that is not given is missing. open: reads
 * the file for request_camera, on rank 0. ST_USAGE, ST_IO, ST_FORMAT, ST_MEMORY. */
status request_check_camera(struct request *r, bool whole);
status request_open_camera(struct request *r);
void request_close_camera(struct request *r);
struct camera_path request_camera(const struct request *r);

/* Whether there is a table of magcache for the request. */
bool request_has_ratios(const struct request *r);

/* The sound, likewise. request_open_sound sets how it is read, on rank 0. */
status request_read_sound(struct request *r);
void request_sound_size(struct request *r);
void request_open_sound(struct request *r);

#endif
