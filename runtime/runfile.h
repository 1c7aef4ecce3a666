/* runfile.h - named arrays and texts in one HDF5 file: the state of a run, and files beside it.
 *
 *     /latents, /solver/m0, ...  arrays: f32 or i64, 0 to 5 axes; "/group/name"
 *     request, plan, ...         texts: UTF-8, attributes of the root group
 *     /frames                    [T, H, W, 3] u8, written while frames arrive
 *
 * After the HDF5 file follows a line with the SHA-256 of its bytes. It is checked at reading,
 * before HDF5 sees the file; a file without it is accepted, as of another program. HDF5 removes the
 * line when another program opens the file to change it. Arrays with axes also have HDF5's checksum
 * (fletcher32), for other programs that read them.
 *
 * What the names mean and which arrays must be there is the caller's knowledge. A file is written
 * under a temporary name and renamed, so that a reader sees complete states only. */
#ifndef RUNTIME_RUNFILE_H
#define RUNTIME_RUNFILE_H

#include "runtime/status.h"
#include "runtime/tensor.h"

#include <stdbool.h>
#include <stdint.h>

#define RUNFILE_NAME_BYTES 64   // with the terminating zero
#define RUNFILE_DIGEST_BYTES 65 // in hexadecimal, with the terminating zero

struct run_array {
    char name[RUNFILE_NAME_BYTES]; // "/solver/m0"
    struct tensor value;           // contiguous
    void *memory;                  // of the value when runfile_read made it, else NULL
};

struct run_text {
    char name[RUNFILE_NAME_BYTES];
    char *text;
};

struct runfile {
    struct run_array *arrays;
    struct run_text *texts;
    int array_count, text_count;
    char digest[RUNFILE_DIGEST_BYTES]; // by runfile_read: SHA-256 of the file
    bool verified;                     // by runfile_read: it is the one that was written
};

/* Adds an array, whose memory stays the caller's and is borrowed, or a copy of a text. A name is
 * made of letters, digits, '_', '-' and '.'; an array's has a '/' before each part. ST_MEMORY. */
status runfile_add(struct runfile *f, const char *name, struct tensor value);
status runfile_add_text(struct runfile *f, const char *name, const char *text);

/* The array of this name; a zeroed tensor when there is none. */
struct tensor runfile_find(const struct runfile *f, const char *name);

/* The text of this name; NULL when there is none. */
const char *runfile_text(const struct runfile *f, const char *name);

void runfile_done(struct runfile *f); // accepts a zeroed value

/* Writes the file, or leaves the one that is there. ST_IO, ST_USAGE, ST_MEMORY. */
status runfile_write(const char *path, const struct runfile *f);

/* Reads the file's arrays and texts; f is overwritten. Floats of 2 to 8 bytes become F32, integers
 * I64. Listed with data NULL: U8 arrays, such as /frames, and with dtype DT_NONE what is no array
 * of numbers or has more than five axes. Skipped: names that runfile_add does not take, attributes
 * that are no text. Links to other places, and arrays in other files, are refused, not followed.
 *
 * The file is data from outside: the bytes that a shape promises must be in it, floats must be
 * finite, groups and objects are limited in number. ST_IO; ST_FORMAT names the object. */
status runfile_read(const char *path, struct runfile *f);

/* Writes a run file with /frames. They go into a new file, which replaces `path` in
 * run_frames_finish: a job that dies while decoding still has its latents. `state`: the arrays and
 * texts beside the frames. */
struct run_frames;
status run_frames_open(struct run_frames **f, const char *path, int64_t count, int64_t h,
                       int64_t w);
status run_frames_put(struct run_frames *f, const uint8_t *rgb, int64_t count); // [count, h, w, 3]
status run_frames_finish(struct run_frames *f, const struct runfile *state);    // then close
void run_frames_close(struct run_frames *f); // drops an unfinished file; accepts NULL

#endif
