/* The part of test_fault.c in C++. */
#include <cassert>

extern "C" void fault_in_cxx(int ranks);

void fault_in_cxx(int ranks)
{
    assert(ranks < 0);
}
