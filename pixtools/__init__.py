"""PixTools without Ray and HTTP: operations, pictures, jobs and stores."""
