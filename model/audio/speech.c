#include "model/audio/speech.h"

#include <math.h>

#define ROWS 50     // a second, of the audio encoder
#define FEATURES 30 // a second, after the interpolation

int64_t speech_rows(int64_t samples)
{
    static const int kernel[] = { 10, 3, 3, 3, 3, 2, 2 }, stride[] = { 5, 2, 2, 2, 2, 2, 2 };

    for (int i = 0; i < 7; i++)
        samples = samples < kernel[i] ? 0 : (samples - kernel[i]) / stride[i] + 1;
    return samples;
}

int64_t speech_features(int64_t rows)
{
    return (int64_t)((double)rows / ROWS * FEATURES);
}

int speech_clips(int64_t rows, int frames)
{
    return (int)((double)speech_features(rows) / (frames * ((double)FEATURES / SPEECH_FPS))) + 1;
}

struct speech_row speech_row(int64_t rows, int64_t frame)
{
    const int64_t count = speech_features(rows);
    const double at = (double)frame / SPEECH_FPS * FEATURES;
    const int64_t index = (int64_t)nearbyint(at); // to even
    // torch's linear interpolation with align_corners, in f32
    const float scale = count > 1 ? (float)(rows - 1) / (float)(count - 1) : 0;
    const float place = scale * (float)index;
    struct speech_row r = { { 0, 0 }, { 0, 0 } };

    if (index >= count)
        return r;
    r.row[0] = (int64_t)place < rows - 1 ? (int64_t)place : rows - 1;
    r.row[1] = r.row[0] + (r.row[0] < rows - 1);
    r.weight[1] = fminf(fmaxf(place - (float)r.row[0], 0), 1);
    r.weight[0] = 1 - r.weight[1];
    return r;
}

void speech_weights(float *weights, int64_t count)
{
    double sum = 0;

    for (int64_t i = 0; i < count; i++) {
        weights[i] = weights[i] / (1 + expf(-weights[i]));
        sum += weights[i];
    }
    for (int64_t i = 0; i < count; i++)
        weights[i] = (float)(weights[i] / sum);
}
