// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Lives for some milliseconds, all of them in one function. */

#include <stdint.h>
#include <stdlib.h>
#include <time.h>

static uint64_t now_ms(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000ull + time.tv_nsec / 1000000;
}

__attribute__((noinline)) uint64_t briefly(uint64_t count)
{
	uint64_t sum = 1;

	while (count--)
		sum = sum * 6364136223846793005ull + count;
	return sum;
}

int main(int argc, char **argv)
{
	uint64_t end = now_ms() + (argc > 1 ? strtoull(argv[1], NULL, 10) : 50);
	uint64_t sum = 0;

	/* At least once: it may have waited for a processor until its time was over. */
	do
		sum += briefly(20000);
	while (now_ms() < end);
	return sum == 0;
}
