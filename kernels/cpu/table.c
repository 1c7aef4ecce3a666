#include "kernels/cpu/cpu.h"

void CPU(table)(struct table *t)
{
    *t = table_ref;
    t->name = "cpu";
    t->workspace = CPU_WORKSPACE;
    t->gemm = CPU(gemm);
    t->gemm_add = CPU(gemm_add);
    t->norm_modulate = CPU(norm_modulate);
    t->layer_norm = CPU(layer_norm);
    t->add_norm_modulate = CPU(add_norm_modulate);
    t->add_layer_norm = CPU(add_layer_norm);
    t->rms_norm = CPU(rms_norm);
    t->norm_rope = CPU(norm_rope);
    t->attention = CPU(attention);
    t->attention_merge = CPU(attention_merge);
    t->relative_attention = CPU(relative_attention);
    t->gate_add = CPU(gate_add);
    t->add_rows = CPU(add_rows);
    t->silu = CPU(silu);
    t->gelu = CPU(gelu);
    t->gated_gelu = CPU(gated_gelu);
    t->lincomb = CPU(lincomb);
    t->copy = CPU(copy);
    t->conv3d = CPU(conv3d);
    t->channel_norm = CPU(channel_norm);
    t->channel_affine = CPU(channel_affine);
    t->average_down = CPU(average_down);
    t->repeat_up = CPU(repeat_up);
    t->find_nonfinite = CPU(find_nonfinite);
    t->row_sums = CPU(row_sums);
}
