#include "kernels/cpu/cpu.h"

void CPU(table)(struct table *t)
{
    *t = table_ref;
    t->name = "cpu";
    t->workspace = CPU_WORKSPACE;
    t->gemm = CPU(gemm);
    t->gemm_add = CPU(gemm_add);
    t->conv3d = CPU(conv3d);
    t->attention = CPU(attention);
    t->attention_merge = CPU(attention_merge);
    t->relative_attention = CPU(relative_attention);
    CPU(table_norm)(t);
    CPU(table_elementwise)(t);
}
