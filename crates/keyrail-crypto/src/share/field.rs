//! GF(256) with the polynomial of AES (FIPS 197, section 4.2), without tables and branches: what is multiplied may be
//! secret.

/// The product.
pub(super) fn mul(a: u8, b: u8) -> u8 {
    let (mut shifted, mut product) = (a, 0);
    for bit in 0..u8::BITS {
        product ^= shifted & mask(b >> bit);
        shifted = (shifted << 1) ^ (POLYNOMIAL & mask(shifted >> 7));
    }
    product
}

/// The inverse, and 0 for 0: the power of 254.
pub(super) fn inverse(a: u8) -> u8 {
    let (mut square, mut product) = (a, 1);
    for _ in 1..u8::BITS {
        square = mul(square, square);
        product = mul(product, square);
    }
    product
}

/// x^8 = x^4 + x^3 + x + 1.
const POLYNOMIAL: u8 = 0x1b;

/// All ones if the lowest bit is one, else all zeros. The optimizer is kept from making a branch of it.
fn mask(bit: u8) -> u8 {
    std::hint::black_box(0_u8.wrapping_sub(bit & 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of FIPS 197, sections 4.2 and 4.2.1.
    #[test]
    fn products_are_those_of_the_standard() {
        assert_eq!(mul(0x57, 0x83), 0xc1);
        assert_eq!([0x02, 0x04, 0x08, 0x10, 0x13].map(|by| mul(0x57, by)), [0xae, 0x47, 0x8e, 0x07, 0xfe]);
    }

    #[test]
    fn it_is_a_field() {
        for a in 0..=255 {
            assert_eq!((mul(a, 0), mul(a, 1)), (0, a));
            assert_eq!(mul(a, inverse(a)), u8::from(a != 0));
            for b in 0..=255 {
                assert_eq!(mul(a, b), mul(b, a));
                assert_eq!(mul(a, b ^ 0x35), mul(a, b) ^ mul(a, 0x35));
                assert_eq!(mul(mul(a, b), 0x9d), mul(a, mul(b, 0x9d)));
            }
        }
    }
}
