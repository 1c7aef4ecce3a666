/* prompts.h - the negative prompts that the official programs use if none, or an empty one, is
 * given. Source: Wan2.1 and Wan2.2 wan/configs (sample_neg_prompt). */
#ifndef MODEL_PIPELINE_PROMPTS_H
#define MODEL_PIPELINE_PROMPTS_H

extern const char negative_shared[]; // T2V, T2I, VACE, and every task of Wan2.2 but S2V
extern const char negative_i2v[];    // Wan2.1 I2V
extern const char negative_flf2v[];  // Wan2.1 FLF2V
extern const char negative_s2v[];    // Wan2.2 S2V

#endif
