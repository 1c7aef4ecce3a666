/* A container, opened by FFmpeg. It is read through our own functions, so that a file that names
 * others (a playlist, a reference in a .mov) does not make them be opened. */
#include "launch/video/media_internal.h"

#include <errno.h>
#include <libavformat/avformat.h>
#include <unistd.h>

#define BUFFER_BYTES 65536

static int read_bytes(void *opaque, uint8_t *to, int size)
{
    struct media_input *m = opaque;
    const ssize_t n = pread(m->file->fd, to, (size_t)size, m->at);

    if (n <= 0)
        return n < 0 ? AVERROR(errno) : AVERROR_EOF;
    m->at += n;
    return (int)n;
}

static int64_t seek(void *opaque, int64_t offset, int whence)
{
    struct media_input *m = opaque;

    whence &= ~AVSEEK_FORCE;
    if (whence == AVSEEK_SIZE)
        return (int64_t)m->file->size;
    offset += whence == SEEK_CUR ? m->at : whence == SEEK_END ? (int64_t)m->file->size : 0;
    if (offset < 0)
        return AVERROR(EINVAL);
    return m->at = offset;
}

static int refuse_open(AVFormatContext *in, AVIOContext **io, const char *url, int flags,
                       AVDictionary **options)
{
    return AVERROR(EPERM);
}

status media_no_memory(const struct media_file *f)
{
    return fail(ST_MEMORY, "%s: cannot allocate memory to read it", f->path);
}

status media_input_open(struct media_input *m, const struct media_file *f, const char *formats,
                        const char *refused)
{
    uint8_t *buffer = av_malloc(BUFFER_BYTES);
    AVDictionary *options = NULL;
    int code;

    *m = (struct media_input){ .file = f };
    m->io = buffer != NULL ? avio_alloc_context(buffer, BUFFER_BYTES, 0, m, read_bytes, NULL, seek)
                           : NULL;
    if (m->io == NULL)
        av_free(buffer);
    m->in = avformat_alloc_context();
    if (m->io == NULL || m->in == NULL)
        return media_no_memory(f);
    m->in->pb = m->io;
    m->in->io_open = refuse_open;
    if (formats != NULL)
        av_dict_set(&options, "format_whitelist", formats, 0);
    code = avformat_open_input(&m->in, NULL, NULL, &options); // frees m->in if it fails
    av_dict_free(&options);
    if (code < 0) // AVERROR(ENOMEM) too: damaged tables ask for any number of bytes
        return media_damaged(f, refused);
    return ST_OK;
}

void media_input_close(struct media_input *m)
{
    avformat_close_input(&m->in);
    if (m->io != NULL)
        av_freep(&m->io->buffer);
    avio_context_free(&m->io);
}
