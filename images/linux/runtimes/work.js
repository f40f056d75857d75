// Two functions that do the same, one twice as often as the other.
'use strict';

function hot(rounds) {
	let sum = 1;
	for (let round = 0; round < rounds; round++)
		sum = (sum * 31 + round) | 0;
	return sum;
}

function warm(rounds) {
	let sum = 1;
	for (let round = 0; round < rounds; round++)
		sum = (sum * 33 + round) | 0;
	return sum;
}

const end = Date.now() + Number(process.argv[2]);
let sum = 0;
while (Date.now() < end)
	sum ^= hot(20000) ^ warm(10000);
console.log(`node ended with ${sum}`);
