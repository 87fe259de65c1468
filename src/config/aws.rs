//! A file of AWS credentials: profiles in brackets, keys and values below them.
//!
//! Deliberately absent: everything else that tools of AWS find in such files (roles, processes, single
//! sign-on), and the services that hand out credentials to machines.

use super::diagnostics::Invalid;
use super::model::{AwsCredentials, Secret};

/// The credentials of a profile. What is wrong is said without quoting any of it.
pub(super) fn credentials(bytes: &[u8], profile: &str) -> Result<AwsCredentials, Invalid> {
    let text = std::str::from_utf8(bytes).map_err(|_| Invalid::new("the file is not text"))?;
    let mut is_found = false;
    let (mut id, mut secret, mut token) = (None, None, None);
    let mut is_here = false;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            is_here = name.trim() == profile;
            is_found |= is_here;
            continue;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| is_here) else { continue };
        let value = value.trim();
        let is_visible = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic());
        let known = match key.trim().to_ascii_lowercase().as_str() {
            "aws_access_key_id" => &mut id,
            "aws_secret_access_key" => &mut secret,
            "aws_session_token" => &mut token,
            _ => continue,
        };
        if !is_visible {
            let message = format!("{} of profile {profile:?} is empty or not ASCII", key.trim());
            return Err(Invalid::new(message));
        }
        *known = Some(value);
    }
    if !is_found {
        return Err(Invalid::new(format!("the file has no profile {profile:?}"))
            .help("begin it with [default], or name the one to take in `profile`"));
    }
    let missing = |key| {
        Invalid::new(format!("profile {profile:?} has no {key}"))
            .help("write aws_access_key_id = … and aws_secret_access_key = … below the profile")
    };
    Ok(AwsCredentials {
        access_key_id: id.ok_or_else(|| missing("aws_access_key_id"))?.into(),
        secret_access_key: Secret(secret.ok_or_else(|| missing("aws_secret_access_key"))?.into()),
        session_token: token.map(|token| Secret(token.into())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_found_among_others_and_comments() {
        let text = "# mine\n[default]\naws_access_key_id=A\naws_secret_access_key = B=\r\n\
                    region = eu-central-1\n\n[ edge ]\n; of the edge\nAWS_ACCESS_KEY_ID = C\n\
                    aws_secret_access_key=D/+\naws_session_token = E==\n";
        let of = |profile| credentials(text.as_bytes(), profile).unwrap();
        let default = of("default");
        assert_eq!((&*default.access_key_id, &*default.secret_access_key.0), ("A", "B="));
        assert_eq!(default.session_token, None);
        let edge = of("edge");
        assert_eq!((&*edge.access_key_id, &*edge.secret_access_key.0), ("C", "D/+"));
        assert_eq!(edge.session_token, Some(Secret("E==".into())));
    }

    #[test]
    fn what_is_missing_is_said_and_nothing_is_quoted() {
        for (text, message) in [
            ("", "has no profile"),
            ("aws_access_key_id = s3cret", "has no profile"),
            ("[default]\naws_secret_access_key = s3cret", "has no aws_access_key_id"),
            ("[default]\naws_access_key_id = s3cret", "has no aws_secret_access_key"),
            ("[default]\naws_access_key_id = s3cret s3cret", "is empty or not ASCII"),
            ("[default]\naws_access_key_id =", "is empty or not ASCII"),
        ] {
            let said = format!("{:?}", credentials(text.as_bytes(), "default").unwrap_err());
            assert!(said.contains(message) && !said.contains("s3cret"), "{text}: {said}");
        }
        assert!(credentials(b"\xff", "default").is_err());
    }
}
