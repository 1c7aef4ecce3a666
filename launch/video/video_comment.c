/* Reads the comment that video.c and png_write store in a result. */
#include "launch/video/video.h"

#include <errno.h>
#include <libavformat/avformat.h>
#include <libavutil/intreadwrite.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMMENT_BYTES_MAX ((size_t)64 << 20)

static status no_memory(const char *path)
{
    return fail(ST_MEMORY, "%s: cannot allocate memory to read its comment", path);
}

static status mp4_comment(const char *path, char **text)
{
    AVFormatContext *in = NULL;
    const AVDictionaryEntry *entry = NULL;
    char *url = NULL;
    status st = ST_OK;

    if (asprintf(&url, "file:%s", path) < 0)
        return no_memory(path);
    av_log_set_level(AV_LOG_QUIET);
    if (avformat_open_input(&in, url, av_find_input_format("mp4"), NULL) == 0)
        entry = av_dict_get(in->metadata, "comment", NULL, 0);
    if (entry != NULL) {
        *text = strdup(entry->value);
        st = *text != NULL ? ST_OK : no_memory(path);
    }
    avformat_close_input(&in);
    free(url);
    return st;
}

/* Chunks up to the first one with pixels: length, name, data, CRC. */
static status png_comment(FILE *f, const char *path, char **text)
{
    static const char keyword[] = "Comment\0\0\0\0"; // as comment_chunk writes it, with its zero
    uint8_t head[8];
    status st = ST_OK;

    while (*text == NULL && fread(head, 1, 8, f) == 8 && memcmp(head + 4, "IDAT", 4) != 0) {
        const size_t length = AV_RB32(head);
        char *data;

        if (memcmp(head + 4, "iTXt", 4) != 0 || length < sizeof(keyword) ||
            length > COMMENT_BYTES_MAX) {
            if (fseek(f, (long)length + 4, SEEK_CUR) != 0)
                break;
            continue;
        }
        data = malloc(length + 1);
        if (data == NULL)
            return no_memory(path);
        data[length] = '\0';
        if (fread(data, 1, length, f) == length && memcmp(data, keyword, sizeof(keyword)) == 0) {
            *text = strdup(data + sizeof(keyword));
            st = *text != NULL ? ST_OK : no_memory(path);
        }
        free(data);
        if (fseek(f, 4, SEEK_CUR) != 0)
            break;
    }
    return st;
}

status video_comment(const char *path, char **text)
{
    static const uint8_t png[] = { 0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n' };
    FILE *f = fopen(path, "rb");
    uint8_t head[8] = { 0 };
    status st;

    *text = NULL;
    if (f == NULL)
        return fail(status_of_errno(), "%s: %s", path, strerror(errno));
    if (fread(head, 1, 8, f) == 8 && memcmp(head, png, 8) == 0)
        st = png_comment(f, path, text);
    else
        st = mp4_comment(path, text);
    fclose(f);
    return st;
}
