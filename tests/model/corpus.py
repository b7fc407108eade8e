"""Cron expressions of all sorts: what the zone tests try on every change of every clock."""

from __future__ import annotations

# Times of the day, mostly where clocks change: around midnight, one, two and three.
_FIXED_TIMES = """
0 0 * * *          | 1 0 * * *           | 30 0 * * *         | 59 0 * * *          | 0 1 * * *
30 1 * * *         | 59 1 * * *          | 0 2 * * *          | 1 2 * * *           | 15 2 * * *
30 2 * * *         | 45 2 * * *          | 59 2 * * *         | 0 3 * * *           | 30 3 * * *
0 4 * * *          | 17 5 * * *          | 0 7 * * *          | 30 9 * * *          | 0 12 * * *
45 13 * * *        | 20 16 * * *         | 0 18 * * *         | 0 22 * * *          | 30 22 * * *
0 23 * * *         | 1 23 * * *          | 30 23 * * *        | 59 23 * * *         | 30 6 * * *
"""

# Several times a day: lists, ranges and steps.
_FIXED_LISTS = """
0,30 2 * * *       | 0,15,30,45 2 * * *  | 0 2,3 * * *        | 15 2,3 * * *        | 15,45 1,2,3 * * *
0 0-5 * * *        | 30 0-3 * * *        | 0,30 0-23 * * *    | 5-10 2 * * *        | 50-59 1 * * *
0-59 2 * * *       | 0-59/7 2 * * *      | 1-59/2 3 * * *     | 0/20 2 * * *        | 10/25 1-3 * * *
0 0,12 * * *       | 0 1-23/2 * * *      | 0 0-23/3 * * *     | 0 0/6 * * *         | 30 2-4/2 * * *
0,59 0,23 * * *    | 0,1,2,3 2 * * *     | 58-59 23 * * *     | 0-5,55-59 0,2,23 * * * | 29-31 1,2 * * *
0 8-18 * * *       | 15 8-18/5 * * *     | 7,22,37,52 0-6 * * * | 0 22-23,0-4 * * *  | 3-3 3-3 * * *
0-30/10 2,23 * * * | 05 02 * * *         | 0,0 2,2 * * *      | 30 20-23 * * *      | 12 0-23/1 * * *
"""

# Weekdays and months: numbers, names, ranges, lists and steps.
_FIXED_DAYS = """
0 2 * * 0          | 30 2 * * 7          | 30 2 * * SUN       | 0 3 * * SAT,SUN     | 30 1 * * 6,0
0 9 * * 1-5        | 0 9 * * MON-FRI     | 30 2 * * thu-sat   | 15 0 * * 5-7        | 0 0 * * thu
0 0 * * 1,3,5      | 0 2 * * 0-6/2       | 0 2 * * 1-7/3      | 0 0 * JAN,MAR *     | 30 2 * mar,apr,oct,nov *
30 2 * 3 *         | 30 2 * 10-11 *      | 0 1 * 3-11/8 *     | 30 23 * */3 *       | 0 0 * 1-6 1-5
30 2 * OCT SUN     | 30 0 * 9-12 6       | 0 3 * 4-10/2 sun   | 0 5 * dec Mon       | 45 2 * MAR-NOV fri,sat,sun
"""

# Days of the month, with L, W, LW and #.
_FIXED_MONTHS = """
0 0 1 * *          | 30 2 1 * *          | 0 0 15 * *         | 30 2 25-31 * *      | 30 2 1-7 * *
30 2 8-14 * *      | 30 2 */2 * *        | 30 2 1-31/2 * *    | 0 2 */5 * *         | 0 0 1,15 * *
0 0 31 * *         | 0 2 29,30,31 * *    | 0 0 29 2 *         | 0 3 30 1,3-12 *     | 30 2 L * *
0 0 L * *          | 30 23 L * *         | 30 2 LW * *        | 0 0 LW * *          | 30 2 15W * *
0 0 1W * *         | 30 1 1W,L * *       | 30 2 31W * *       | 0 2 28W 3,10 *      | 30 2 L,15 * *
30 2 LW,1 * *      | 30 2 L 3 *          | 30 2 L 10 *        | 0 0 26-28,L * *     | 30 2 5W,20W * *
30 2 * * 0L        | 30 2 * * 7L         | 0 1 * * 5L         | 0 0 * * 6L          | 30 2 * 3 0L
30 1 * 10 7L       | 30 2 * * SUN#1      | 30 2 * * 0#2       | 30 2 * 3 SUN#2      | 0 2 * 11 sun#1
30 0 * * 5#5       | 0 0 * * FRI#4       | 30 2 * * 6#3,0#3   | 0 3 * * 0L,6L       | 30 2 * * MON#1,5L
"""

# Both day fields: either matches, unless one starts with a star.
_FIXED_BOTH = """
30 2 13 * FRI      | 0 0 1 * MON         | 30 2 1-7 * SUN     | 30 2 L * SUN        | 30 2 LW * 6
0 2 15W * 0L       | 30 2 1,15 * sun#1   | 0 0 31 10 6        | 30 2 */2 * SUN      | 30 2 */13 * 0
0 3 1-7 * */7      | 30 2 25-31 3 */2    | 0 1 * * */3        | 45 2 28 2-4 thu-sat | 30 2 10-20 10,11 0
"""

# Six fields: seconds first.
_FIXED_SECONDS = """
0 0 0 * * *        | 30 30 2 * * *       | 59 59 1 * * *      | 0,30 0 2 * * *      | 15-20 30 2 * * *
*/20 30 2 * * *    | 10 0 0 * * *        | 5 5 3 L * *        | 45 15 2 * * SUN     | 0 0,30 2,3 * * SUN#2
"""

# The minute or the hour starts with a star: these follow real time.
_INTERVALS = """
* * * * *          | */2 * * * *         | */5 * * * *        | */7 * * * *         | */10 * * * *
*/15 * * * *       | */20 * * * *        | */30 * * * *       | */45 * * * *        | */59 * * * *
0 * * * *          | 1 * * * *           | 15 * * * *         | 30 * * * *          | 59 * * * *
0,30 * * * *       | 5-10 * * * *        | 10-50/20 * * * *   | 0 */2 * * *         | 30 */2 * * *
0 */3 * * *        | 15 */4 * * *        | 0 */6 * * *        | 0 */12 * * *        | 0 */23 * * *
* 2 * * *          | */15 2 * * *        | */30 1-3 * * *     | */20 0,23 * * *     | * 0 * * *
*/10 2,3 * * SUN   | 0 * * * 6,0         | 30 * 1 * *         | 0 * L * *           | */30 * * 3,10 *
15 * * * 0L        | 0 * * * SUN#2       | */12 * 1-7 * *     | 0 */5 15W * *       | 0 * 13 * FRI
*/15 */2 * * *     | * */6 * * *         | 0 */1 */2 * *      | 45 * * MAR-NOV SUN  | 0 * LW * 0
30 0 * * * *       | 0 */15 * * * *      | 10,40 */30 * * * * | 0 0 * * * SUN       | */30 0 */2 * * *
"""

_NAMES = "@yearly | @annually | @monthly | @weekly | @daily | @midnight | @hourly | @DAILY"


def _read(*tables: str) -> tuple[str, ...]:
    lines = (line for table in tables for line in table.strip().splitlines())
    return tuple(" ".join(word.split()) for line in lines for word in line.split("|"))


FIXED = _read(
    _FIXED_TIMES,
    _FIXED_LISTS,
    _FIXED_DAYS,
    _FIXED_MONTHS,
    _FIXED_BOTH,
    _FIXED_SECONDS,
    _NAMES.replace("| @hourly ", ""),
)
INTERVALS = (*_read(_INTERVALS), "@hourly")
CORPUS = (*FIXED, *INTERVALS)
