// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Half of what plugin.c loads. */

#include <stdint.h>

uint64_t work_a(uint64_t count)
{
	uint64_t sum = 7;

	while (count--)
		sum = sum * 6364136223846793005ull + count;
	return sum;
}
