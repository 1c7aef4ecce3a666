#include "model/pipeline/prompts.h"

#define HANDS_AND_SCENE                                                                                                  \
    "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，" \
    "形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
#define SHARED                                                                                                                    \
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，" \
    "最差质量，低质量，JPEG压缩残留，" HANDS_AND_SCENE

const char negative_shared[] = SHARED;
const char negative_i2v[] = "镜头晃动，" SHARED;
const char negative_flf2v[] = "镜头切换，镜头晃动，" SHARED;
const char negative_s2v[] = "画面模糊，最差质量，画面模糊，细节模糊不清，情绪激动剧烈，手快速抖动，"
                            "字幕，" HANDS_AND_SCENE;
