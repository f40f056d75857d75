// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Half of what plugin.c loads. */

#include <stdint.h>

/* Something else before, so that the two do not have their work at one offset. */
uint64_t other_b(uint64_t count)
{
	return count * 3;
}

uint64_t work_b(uint64_t count)
{
	uint64_t sum = 11;

	while (count--)
		sum = sum * 6364136223846793005ull + count;
	return sum;
}
