// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Spends known shares of its time in three functions: 60, 30 and 10 percent. All run the same instructions, so a share of
 * iterations is a share of time.
 */

#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#define SPIN(name)                                                                       \
	__attribute__((noinline, aligned(64))) uint64_t name(uint64_t count)             \
	{                                                                                \
		uint64_t a = 1, x = 0;                                                   \
											 \
		__asm__ volatile("# " #name "\n"                                         \
				 ".p2align 6\n"                                          \
				 "1: imul $0x6c078965, %0, %0\n"                         \
				 "add %2, %0\n"                                          \
				 "xor %0, %1\n"                                          \
				 "ror $9, %1\n"                                          \
				 "dec %2\n"                                              \
				 "jnz 1b"                                                \
				 : "+r"(a), "+r"(x), "+r"(count)                         \
				 :                                                       \
				 : "cc");                                                \
		return x;                                                                \
	}

SPIN(hot)
SPIN(warm)
SPIN(cool)

static uint64_t now_ms(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000ull + time.tv_nsec / 1000000;
}

int main(int argc, char **argv)
{
	uint64_t end = now_ms() + (argc > 1 ? strtoull(argv[1], NULL, 10) : 1000);
	uint64_t random = 1, sum = 0;

	do {
		/* Rounds of unequal length, which fall in step with nothing. */
		uint64_t unit = 200 + (random >> 33) % 400;

		random = random * 6364136223846793005ull + 1442695040888963407ull;
		sum += hot(60 * unit) + warm(30 * unit) + cool(10 * unit);
	} while (now_ms() < end);
	return sum == 0;
}
