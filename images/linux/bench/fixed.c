// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Does the same work each time, 16 calls deep, and tells how long that took in nanoseconds: fixed ROUNDS. Where time is a count
 * of instructions, so is the difference between two runs.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Callers between `main` and the loop. */
#define DEPTH 16

static __attribute__((noinline)) uint64_t spin(uint64_t count)
{
	uint64_t a = 1, x = 0;

	__asm__ volatile("1: imul $0x6c078965, %0, %0\n"
			 "add %2, %0\n"
			 "xor %0, %1\n"
			 "ror $9, %1\n"
			 "dec %2\n"
			 "jnz 1b"
			 : "+r"(a), "+r"(x), "+r"(count)
			 :
			 : "cc");
	return x;
}

static __attribute__((noinline)) uint64_t descend(unsigned int depth, uint64_t count)
{
	/* What is done after the call keeps the frame. */
	return depth ? descend(depth - 1, count) + depth : spin(count);
}

static uint64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

int main(int argc, char **argv)
{
	uint64_t rounds = argc > 1 ? strtoull(argv[1], NULL, 10) : 1, begin = now_ns(), sum = 0;

	while (rounds--)
		sum += descend(DEPTH, 1000000);
	printf("%llu\n", (unsigned long long)(now_ns() - begin));
	return sum == 0;
}
