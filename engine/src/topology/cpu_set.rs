//! Sets of CPU and node numbers, in the notation of the kernel.

use std::fmt;

/// A set of CPU or node numbers, as the kernel writes it: `0-3,8`. Ordered; numbers may have gaps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct CpuSet(Vec<usize>);

impl CpuSet {
    /// Largest number accepted: twice what the largest Linux build can have.
    const NUMBER_MAX: usize = 16_383;

    /// Reads a list such as `0-3,8`. Empty text is the empty set.
    ///
    /// # Errors
    /// The error in the list, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self::default());
        }
        let mut numbers = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| {
                let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                let number = text.parse().ok().filter(|&n: &usize| digits && n <= Self::NUMBER_MAX);
                number.ok_or_else(|| format!("`{part}` is not a number or a range"))
            };
            let (first, last) = (number(first.trim())?, number(last.trim())?);
            if first > last {
                return Err(format!("the range `{part}` runs backwards"));
            }
            numbers.extend(first..=last);
        }
        Ok(numbers.into_iter().collect())
    }

    /// Reads a mask such as `ff,00000001`: hexadecimal words of 32 bits, the highest first. What is no mask is the
    /// empty set.
    pub fn from_mask(text: &str) -> Self {
        let words = text.trim().split(',').map(|word| u32::from_str_radix(word, 16).ok());
        let Some(words) = words.collect::<Option<Vec<u32>>>() else { return Self::default() };
        let words = words.iter().rev().zip((0..).step_by(32));
        words
            .flat_map(|(&word, base)| {
                (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| base + bit)
            })
            .collect()
    }

    /// The mask that [`CpuSet::from_mask`] reads.
    pub fn to_mask(&self) -> String {
        let mut words = vec![0u32; self.0.last().map_or(1, |last| last / 32 + 1)];
        for number in self.iter() {
            words[number / 32] |= 1 << (number % 32);
        }
        words.iter().rev().map(|word| format!("{word:08x}")).collect::<Vec<_>>().join(",")
    }

    /// The numbers in rising order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().copied()
    }

    /// Whether `number` is in the set.
    pub fn contains(&self, number: usize) -> bool {
        self.0.binary_search(&number).is_ok()
    }

    /// How many numbers it holds.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The smallest number.
    pub fn first(&self) -> Option<usize> {
        self.0.first().copied()
    }

    /// The CPUs in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self(self.iter().filter(|&n| other.contains(n)).collect())
    }
}

impl FromIterator<usize> for CpuSet {
    fn from_iter<I: IntoIterator<Item = usize>>(numbers: I) -> Self {
        let mut numbers: Vec<usize> = numbers.into_iter().collect();
        numbers.sort_unstable();
        numbers.dedup();
        Self(numbers)
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_slice();
        let mut comma = "";
        while let Some(&first) = rest.first() {
            let run = rest.iter().enumerate().take_while(|&(i, &n)| n == first + i).count();
            match run {
                1 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{}", first + run - 1)?,
            }
            comma = ",";
            rest = &rest[run..];
        }
        Ok(())
    }
}

/// As a list of numbers: tools should not have to parse ranges.
impl serde::Serialize for CpuSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_masks() {
        for (mask, list) in [("0", ""), ("3", "0-1"), ("80000001,0000000a", "1,3,32,63"), ("", ""), ("x", "")]
        {
            let set = CpuSet::from_mask(mask);
            assert_eq!(set.to_string(), list);
            assert_eq!(CpuSet::from_mask(&set.to_mask()), set);
        }
    }

    #[test]
    fn reads_and_writes_the_kernels_notation() {
        for (text, numbers) in
            [("0-3,8", vec![0, 1, 2, 3, 8]), ("5", vec![5]), ("", vec![]), ("1,3", vec![1, 3])]
        {
            let set = CpuSet::parse(text).unwrap();
            assert_eq!(set.iter().collect::<Vec<_>>(), numbers);
            assert_eq!(set.to_string(), text);
        }
        assert_eq!(CpuSet::parse("8,0-1,1\n").unwrap().to_string(), "0-1,8");
        assert!(CpuSet::parse("16383").is_ok());
        for bad in ["a", "1-", "-1", "3-1", "1,,2", "1 2", "99999999999999999999", "16384", "+1"] {
            assert!(CpuSet::parse(bad).is_err(), "{bad}");
        }
    }
}
